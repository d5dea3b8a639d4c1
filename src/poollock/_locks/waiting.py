"""What becomes of a wait for a lock that lasts: in a worker, the pool is told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .base import BaseLock

FIRST_INTERVAL = 1.0  # seconds before a wait is reported: most are over by then
INTERVAL = 0.25  # seconds between two checks after that


class WaitObserver(Protocol):
    """Who is told of waits that last."""

    def begin(self, lock: BaseLock) -> None:
        """Take in that the main thread, the only one, waits for *lock* without a time limit."""

    def check(self) -> None:
        """Do what is due during the wait.

        Raises:
            DeadlockError: The wait can never end.
        """

    def end(self) -> None:
        """Take in that the wait is over."""


_observer: WaitObserver | None = None


def observe(observer: WaitObserver) -> None:
    """Tell *observer* of the waits of this process."""
    global _observer  # noqa: PLW0603 - one per process
    _observer = observer


def forget_observer() -> None:
    """Tell nobody, in a process that was forked: it has a copy of its parent's observer."""
    global _observer  # noqa: PLW0603 - as above
    _observer = None


def wait(lock: BaseLock, acquire: Callable[[float], bool], check: Callable[[], object] = bool) -> None:
    """Call *acquire*, until it has acquired *lock*.

    Args:
        lock: The lock, which was not free.
        acquire: Waits for so many seconds at most, and returns whether it has acquired the lock.
        check: Called now and then; raises if the wait is in vain.

    Raises:
        DeadlockError: The wait can never end.
    """
    if acquire(FIRST_INTERVAL):
        return
    with _reported(lock) as observer:
        while not acquire(INTERVAL):
            check()
            if observer is not None:
                observer.check()


@contextmanager
def _reported(lock: BaseLock) -> Generator[WaitObserver | None, None, None]:
    # Another thread of this process might release the lock, or be the one that is to be told.
    observer = _observer if threading.active_count() == 1 else None
    if observer is None:
        yield None
        return
    try:
        observer.begin(lock)
        yield observer
    finally:
        observer.end()
