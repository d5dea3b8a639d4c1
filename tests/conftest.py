"""Fixtures: pools of each kind, and a look at what is left over."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import FACTORIES, METHODS, Factory, children
from poollock import LockedPool, manager_locked_pool


@pytest.fixture(params=METHODS, scope="module")
def method(request: pytest.FixtureRequest) -> str:
    """Each start method of this platform."""
    name: str = request.param
    return name


@pytest.fixture(params=FACTORIES, ids=["locked", "manager"], scope="module")
def factory(request: pytest.FixtureRequest) -> Factory:
    """Each of the two factories."""
    made: Factory = request.param
    return made


@pytest.fixture(scope="module")
def pool(factory: Factory, method: str) -> Iterator[LockedPool]:
    """A pool of two workers with one lock; of each kind, on each start method."""
    with factory(2, context=method) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the manager's pools on all but the first start method to the gate.

    How a worker is started, and where its locks live, do not depend on each other.
    """
    for item in items:
        params: dict[str, Any] = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        if params.get("factory") is manager_locked_pool and params.get("method", METHODS[0]) != METHODS[0]:
            item.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two processes for each processor, since tests wait a lot; none for tests that are given by name."""
    if any("::" in argument for argument in config.args):
        return 0
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(autouse=True, scope="module")
def _nothing_left() -> Iterator[None]:
    before = children()
    yield
    assert multiprocessing.active_children() == []
    assert children() <= before
