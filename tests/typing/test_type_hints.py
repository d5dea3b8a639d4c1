"""The annotations of what is public can be read while a program runs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import beartype
import pytest
from beartype.roar import BeartypeCallHintParamViolation

import poollock
from helpers import METHODS


def functions_of(public: type) -> Iterator[FunctionType]:
    """The methods and properties of a class, and what it inherits from another of ours."""
    for attribute in dir(public):
        member = inspect.getattr_static(public, attribute)
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if isinstance(member, FunctionType) and member.__module__.startswith("poollock"):
            yield member


@pytest.mark.parametrize("name", poollock.__all__)
def test_type_hints_can_be_read(name: str) -> None:
    public: Any = getattr(poollock, name)
    members: list[Any] = [*functions_of(public)] if inspect.isclass(public) else []
    for annotated in [public, *members]:
        hints = typing.get_type_hints(annotated)
        assert not any(isinstance(hint, (str, typing.ForwardRef)) for hint in hints.values())


def test_type_hints_of_a_cluster() -> None:
    cluster = pytest.importorskip("poollock.dask", reason="the extra poollock[dask] is not installed")
    for name in cluster.__all__:
        public = getattr(cluster, name)
        typing.get_type_hints(public)
        for method in functions_of(public) if inspect.isclass(public) else ():
            typing.get_type_hints(method)


@beartype.beartype
def task(lock: poollock.BaseLock, x: int) -> int:
    with lock:
        return x


@pytest.mark.parametrize("method", METHODS)
def test_functions_that_beartype_checks(method: str) -> None:
    checked = beartype.beartype(poollock.locked_pool)
    with checked(2, locks={"lock": poollock.Lock(context=method)}, context=method) as pool:
        assert pool.map(task, range(4)) == [*range(4)]
        with pytest.raises(BeartypeCallHintParamViolation):
            pool.apply(task, ("no number",))
    with pytest.raises(BeartypeCallHintParamViolation, match="maxtasksperchild"):
        checked(2, maxtasksperchild="3")  # type: ignore[arg-type] # wrong on purpose
