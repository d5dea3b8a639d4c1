"""Fixtures: pools of each kind, and a look at what is left over."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator

import pytest

from helpers import FACTORIES, METHODS, children
from poollock import LockedPool


@pytest.fixture(params=METHODS, scope="module")
def method(request: pytest.FixtureRequest) -> str:
    """Each start method of this platform."""
    name: str = request.param
    return name


@pytest.fixture(params=FACTORIES, ids=["locked", "manager"], scope="module")
def factory(request: pytest.FixtureRequest) -> Callable[..., LockedPool]:
    """Each of the two factories."""
    made: Callable[..., LockedPool] = request.param
    return made


@pytest.fixture(scope="module")
def pool(factory: Callable[..., LockedPool], method: str) -> Iterator[LockedPool]:
    """A pool of two workers with one lock; of each kind, on each start method."""
    with factory(2, context=method) as made:
        yield made


@pytest.fixture(autouse=True, scope="module")
def _nothing_left() -> Iterator[None]:
    before = children()
    yield
    assert multiprocessing.active_children() == []
    assert children() <= before
