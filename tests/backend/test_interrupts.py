"""An exception out of a signal handler, at each step of taking a lock and of giving it back."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest

from helpers import interrupted_at
from poollock import BaseLock, Lock, RLock, Semaphore

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def use(lock: BaseLock) -> None:
    with lock:
        pass


def use_with_time_limit(lock: BaseLock) -> None:
    assert lock.acquire(timeout=20)
    lock.release()


def use_twice(lock: BaseLock) -> None:
    with lock, lock:
        pass


def semaphore_of_a_dead_process() -> Semaphore:
    """Make one that this process has given back more often than it has taken it."""
    lock = Semaphore(2, context="fork")
    process = multiprocessing.get_context("fork").Process(target=lock.acquire)
    process.start()
    process.join()
    assert lock._recover(process.pid or 0)
    return lock


@pytest.mark.parametrize(
    ("make", "function"),
    [
        (Lock, use),
        (Lock, use_with_time_limit),
        (RLock, use_twice),
        (lambda: Semaphore(2), use),
        (lambda: Semaphore(2), use_with_time_limit),
        pytest.param(semaphore_of_a_dead_process, use, marks=needs_fork),
    ],
)
def test_exception_at_each_step(make: Callable[[], BaseLock], function: Callable[[BaseLock], None]) -> None:
    lock, count = make(), 1
    while interrupted_at(count, lambda: function(lock)):
        lock._release_if_held()  # as a worker does when the task has ended
        left = lock.get_value() if isinstance(lock, Semaphore) else 2 * (not lock.locked())
        assert (left, lock.holders, lock._is_unrecorded()) == (2, (), False), f"at step {count}"
        count += 1
    assert count > 20
