"""What programs that read annotations find."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest

from poollock import LockedPool, locked_pool, manager_locked_pool

FUNCTIONS: list[Any] = [
    locked_pool,
    manager_locked_pool,
    LockedPool,
    *(value.fget if isinstance(value, property) else value for value in vars(LockedPool).values()),
]


@pytest.mark.parametrize("public", [f for f in FUNCTIONS if inspect.isfunction(f) or inspect.isclass(f)])
def test_type_hints_can_be_read(public: Any) -> None:
    hints = typing.get_type_hints(public)
    assert inspect.isclass(public) or "return" in hints
