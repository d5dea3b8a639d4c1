"""Fixtures: a manager, and a lock of each kind in it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from poollock import BaseLock, RLock, Semaphore
from poollock._manager.manager import LockManager
from poollock._manager.proxies import make_lock


@pytest.fixture(scope="module")
def manager() -> Iterator[LockManager]:
    started = LockManager(multiprocessing.get_context("spawn"))
    started.start()
    yield started
    started.shutdown()


@pytest.fixture(params=[None, RLock(), Semaphore(1)], ids=["lock", "rlock", "semaphore"])
def lock(request: pytest.FixtureRequest, manager: LockManager) -> BaseLock:
    return make_lock(manager, request.param)
