"""Lock, and what it has in common with Semaphore: a semaphore of multiprocessing, and who holds it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from multiprocessing.context import BaseContext
from operator import attrgetter, methodcaller
from threading import active_count
from typing import TYPE_CHECKING, Any, final

from poollock._backend.context import resolve_context
from poollock._backend.describe import describe
from poollock._backend.process import POLL_INTERVAL, dead_parent, is_gone
from poollock._errors import PoolLockError
from poollock._typing import override

from .base import BaseLock
from .registry import every_lock
from .shared_words import SharedWords, shared_words

# Where each word of a lock stands: whether it was abandoned, then who holds it.
ABANDONED = 0
HOLDER = 1

_pid = os.getpid()


def _after_fork() -> None:
    global _pid  # noqa: PLW0603 - a module variable is read in 10 ns, os.getpid() in 50
    _pid = os.getpid()
    for lock in every_lock():
        if isinstance(lock, SemaphoreLock):
            lock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class SemaphoreLock(BaseLock):
    """A lock on a semaphore of multiprocessing, with its words of shared memory beside it."""

    __slots__ = ("_method", "_raw", "_semaphore", "_shared", "_words")

    _method: str
    _raw: Any  # multiprocessing.Lock or Semaphore
    _semaphore: Any  # the _multiprocessing.SemLock in it
    _shared: SharedWords
    _words: memoryview[int]

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        self._method, raw, self._shared = parts
        self._raw = raw if not isinstance(raw, tuple) else _raw_lock(*raw)
        self._semaphore = self._raw._semlock
        self._words = self._shared.view

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return self._method, (type(self._raw), self._raw.__getstate__()), self._shared

    @property
    @override
    def only_by_fork(self) -> bool:
        return self._method == "fork"

    @override
    def locked(self) -> bool:
        return bool(self._semaphore._is_zero())

    @override
    def _is_mine(self) -> bool:
        return bool(self._semaphore._is_mine())

    def _after_fork(self) -> None:
        """Count anew what this process has: it was forked, and its parent had the rest."""
        self._semaphore._after_fork()

    @property
    @override
    def holders(self) -> tuple[int, ...]:
        return tuple(pid for pid in self._words[HOLDER:] if pid)

    @property
    @override
    def abandoned(self) -> bool:
        return bool(self._words[ABANDONED])

    @override
    def mark_consistent(self) -> None:
        self._words[ABANDONED] = 0


def _raw_lock(cls: Any, state: Any) -> Any:
    """Rebuild a lock of multiprocessing here, not while it is unpickled: it may be gone by now."""
    raw = cls.__new__(cls)
    raw.__setstate__(state)
    return raw


def wait_for(take: Callable[[bool, float], bool], words: memoryview[int]) -> None:
    """Take the semaphore of a lock.

    Args:
        take: The semaphore's ``acquire``.
        words: The lock's words.

    Raises:
        PoolLockError: Who has it has ended, and so has the parent of this process, which would free it.
    """
    while not take(True, POLL_INTERVAL):  # noqa: FBT003 - it takes no keyword for it
        parent = dead_parent()
        holders = {*words[HOLDER:]} - {0}
        if parent and holders and all(pid == parent or is_gone(pid) for pid in holders):
            raise PoolLockError(
                f"{describe()} waits for a lock that process {', '.join(map(str, holders))} had when it was "
                f"killed, and the process of the pool, pid {parent}, is gone too: nobody is left to free it"
            )


def _guard(semaphore: Any, words: memoryview[int]) -> tuple[Callable[[], bool], Callable[..., None]]:
    take = semaphore.acquire
    post = semaphore.release

    def enter() -> bool:
        try:
            if not take(False):  # noqa: FBT003 - a keyword takes longer
                wait_for(take, words)
            words[HOLDER] = _pid
        except BaseException:
            _undo_acquire(semaphore, words)
            raise
        return True

    def leave(kind: object = None, error: object = None, traceback: object = None) -> None:
        try:
            words[HOLDER] = 0
            post()
        except BaseException:
            _undo_acquire(semaphore, words)
            raise

    return enter, leave


def _undo_acquire(semaphore: Any, words: memoryview[int]) -> None:
    """Free a lock that this thread has and has not signed for: a signal handler has raised in between."""
    if semaphore._is_mine() and semaphore._is_zero() and not words[HOLDER]:
        semaphore.release()


def in_one_step(*calls: Callable[[], object]) -> None:
    """Call functions that are written in C: no other thread and no signal handler runs in between."""
    deque(map(methodcaller("__call__"), calls), 0)


def _post_for_another(semaphore: Any) -> None:
    """Release what this process has not taken, so that it does not count that."""
    in_one_step(semaphore.release, semaphore._after_fork)


class _OfEachLock(property):
    """A method that is another function for each lock: one made for it alone.

    `with` calls that function, which reaches all it needs as closure variables; a property of
    an attrgetter finds it without running Python code.
    """

    def __init__(self, attribute: str) -> None:
        super().__init__(attrgetter(attribute))

    def __call__(self, lock: Lock, *args: Any) -> Any:
        return self.__get__(lock)(*args)  # contextlib.ExitStack calls type(lock).__enter__(lock)


@final
class Lock(SemaphoreLock):
    """``multiprocessing.Lock`` that knows its holder and can be sent to workers in a task.

    Args:
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the lock; ``None`` is the default context.

    Raises:
        TypeError: *context* is neither a context nor a name.
        ValueError: This platform has no such start method.
        OSError: The system has no semaphore left, or no place for one.
    """

    __slots__ = ("_enter", "_leave")

    _enter: Callable[[], bool]
    _leave: Callable[..., None]

    if not TYPE_CHECKING:  # for a type checker they are BaseLock's
        __enter__ = _OfEachLock("_enter")
        __exit__ = _OfEachLock("_leave")

    def __init__(self, *, context: BaseContext | str | None = None) -> None:
        ctx = resolve_context(context)
        self._set_state((ctx.get_start_method(), ctx.Lock(), shared_words(2)))
        self._register()

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        super()._set_state(parts)
        self._enter, self._leave = _guard(self._semaphore, self._words)

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if block and timeout is None:
            return self._enter()
        try:
            if not self._semaphore.acquire(block, timeout):
                return False
            self._words[HOLDER] = _pid
        except BaseException:
            _undo_acquire(self._semaphore, self._words)
            raise
        return True

    @override
    def release(self) -> None:
        if self._words[HOLDER] == _pid:
            self._leave()
        else:  # as multiprocessing allows
            self._words[HOLDER] = 0
            _post_for_another(self._semaphore)

    @override
    def _release_if_held(self) -> bool:
        if self._words[HOLDER] != _pid or not (self._is_mine() or active_count() == 1):
            return False
        self.release()
        return True

    @override
    def _recover(self, pid: int) -> bool:
        if self._words[HOLDER] != pid:
            return False
        self._words[HOLDER] = 0
        self._force_release()
        return True

    @override
    def _is_unrecorded(self) -> bool:
        return self._semaphore._is_zero() and not self._words[HOLDER]

    @override
    def _force_release(self) -> None:
        self._words[ABANDONED] = 1
        _post_for_another(self._semaphore)
