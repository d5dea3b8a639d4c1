"""RLock, which the thread that has it may take again."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any, final

from poollock._backend.describe import describe
from poollock._typing import override

from .base import BaseLock
from .lock import Lock


@final
class RLock(BaseLock):
    """``multiprocessing.RLock`` that knows its holder and can be sent to workers in a task.

    Args:
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the lock; ``None`` is the default context.

    Raises:
        TypeError: *context* is neither a context nor a name.
        ValueError: This platform has no such start method.
        OSError: The system has no semaphore left, or no place for one.
    """

    # Around a plain lock, which knows whether the running thread has it: in one step with taking
    # it and giving it back, so that a signal handler may come anywhere in here and use the RLock.
    __slots__ = ("_again", "_lock")

    _lock: BaseLock
    _again: int  # how often the thread that has it has taken it again

    def __init__(self, *, context: BaseContext | str | None = None) -> None:
        self._set_state((Lock(context=context),))
        self._register()

    @classmethod
    def _around(cls, lock: BaseLock) -> RLock:
        """Return an RLock that takes *lock* the first time and gives it back the last."""
        rlock = cls.__new__(cls)
        rlock._set_state((lock,))
        rlock._register()
        return rlock

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        (self._lock,) = parts
        self._lock._is_part = True
        self._again = 0

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return (self._lock,)

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if self._lock._is_mine():
            self._again += 1
            return True
        if not self._lock.acquire(block, timeout):
            return False
        self._again = 0  # in a forked child it is what its parent had
        return True

    @override
    def release(self) -> None:
        """Give the lock back, once for each time it was taken.

        Raises:
            AssertionError: Another thread or process holds the lock, or nobody, as with
                ``multiprocessing.RLock``.
        """
        if not self._lock._is_mine():
            raise AssertionError(f"{self.label} is not held by this thread of {describe()}: {self!r}")
        if self._again:
            self._again -= 1
        else:
            self._lock.release()

    @override
    def _is_mine(self) -> bool:
        return self._lock._is_mine()

    @override
    def _is_held_here(self) -> bool:
        return self._lock._is_held_here()

    @override
    def _release_if_held(self) -> bool:
        return self._lock._release_if_held()

    @override
    def _recover(self, pid: int) -> bool:
        return self._lock._recover(pid)

    @override
    def _is_unrecorded(self) -> bool:
        return self._lock._is_unrecorded()

    @override
    def _force_release(self) -> None:
        self._lock._force_release()

    @override
    def locked(self) -> bool:
        return self._lock.locked()

    @property
    @override
    def holders(self) -> tuple[int, ...]:
        return self._lock.holders

    @property
    @override
    def abandoned(self) -> bool:
        return self._lock.abandoned

    @override
    def mark_consistent(self) -> None:
        self._lock.mark_consistent()

    @property
    @override
    def only_by_fork(self) -> bool:
        return self._lock.only_by_fork
