"""RLock, which the thread that has it may take again."""

from __future__ import annotations

import os
import threading
from multiprocessing.context import BaseContext
from typing import Any, final

from ._base import BaseLock
from ._locks import Lock
from ._process import describe
from ._typing import override


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

    # Around a plain lock; which thread has it and how often is this process's own affair.
    __slots__ = ("_depth", "_lock", "_owner")

    _lock: BaseLock
    _owner: tuple[int, int] | None
    _depth: int

    def __init__(self, *, context: BaseContext | str | None = None) -> None:
        self._assemble((Lock(context=context),))
        self._register()

    @classmethod
    def _around(cls, lock: BaseLock) -> RLock:
        """Return an RLock that takes *lock* the first time and gives it back the last."""
        rlock = cls.__new__(cls)
        rlock._assemble((lock,))
        rlock._register()
        return rlock

    @override
    def _assemble(self, parts: tuple[Any, ...]) -> None:
        (self._lock,) = parts
        self._lock._is_part = True
        self._owner = None
        self._depth = 0

    @override
    def _parts(self) -> tuple[Any, ...]:
        return (self._lock,)

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        # The pid is part of the owner: a thread keeps its ident in a forked child.
        me = (os.getpid(), threading.get_ident())
        if self._owner == me:
            self._depth += 1
            return True
        if not self._lock.acquire(block, timeout):
            return False
        self._owner = me
        self._depth = 1
        return True

    @override
    def release(self) -> None:
        """Give the lock back, once for each time it was taken.

        Raises:
            AssertionError: Another thread or process holds the lock, or nobody, as with
                ``multiprocessing.RLock``.
        """
        if self._owner != (os.getpid(), threading.get_ident()):
            raise AssertionError(f"{self.label} is not held by this thread of {describe()}: {self!r}")
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._lock.release()

    @override
    def _is_held_here(self) -> bool:
        return self._lock._is_held_here()

    @override
    def _give_back(self) -> bool:
        if not self._lock._give_back():
            return False
        self._owner = None
        return True

    @override
    def _reclaim(self, pid: int) -> bool:
        return self._lock._reclaim(pid)

    @override
    def _is_unsigned(self) -> bool:
        return self._lock._is_unsigned()

    @override
    def _repair(self) -> None:
        self._lock._repair()

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
