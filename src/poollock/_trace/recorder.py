"""The worker's end: records each task, and each wait for a lock and each hold of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial, wraps
from itertools import count
from threading import get_ident, main_thread
from time import perf_counter_ns, sleep
from typing import Any

from poollock._backend.process import parent_is_gone
from poollock._locks.base import BaseLock
from poollock._locks.lock import Lock
from poollock._locks.rlock import RLock
from poollock._locks.semaphore import Semaphore
from poollock._locks.shared_words import SharedWords

from .records import (
    BEGUN,
    CAPACITY,
    FREED,
    GAVE_UP,
    NEXT,
    RELEASED,
    TAKEN,
    TASK,
    WAITS,
    kind_and_thread,
    lock_key,
    write,
)

_PAUSE = 0.001  # seconds between two looks for room

_recorders: list[Recorder] = []  # of this process: one, if it is a worker of a pool with a trace


class Recorder:
    """Writes records, from any thread and from signal handlers.

    Args:
        words: The memory that it writes to.
    """

    def __init__(self, words: SharedWords) -> None:
        self._view = words.view
        self._next = words.word(NEXT)
        self._begun = words.word(BEGUN)
        self._numbers = count(words.view[NEXT])
        self._main_thread = main_thread().ident
        self._replaced: list[tuple[type[BaseLock], str, Any]] = []

    def add(self, kind: int, lock: int, begin: int, end: int) -> None:
        """Write a record; wait for room while the pool has not read enough of the others."""
        ident = get_ident()
        what = kind if ident == self._main_thread else kind_and_thread(kind, ident)
        number = next(self._numbers)
        try:
            self._begun[...] = number + 1
            while number - self._next[()] >= CAPACITY and not parent_is_gone():
                sleep(_PAUSE)
        finally:  # also if a signal handler raises: what was recorded has happened, and the pool reads on
            write(self._view, number, (what, lock, begin, end))

    def add_task(self, begin: int) -> None:
        """Record that the task which began at *begin* has ended."""
        self.add(TASK, 0, begin, perf_counter_ns())

    def acquire(
        self, lock: int, acquire: Callable[..., bool], timeout: float | None, recorded: list[int]
    ) -> None:
        """Have a lock taken, and record it.

        It is taken in two steps: only that tells whether there was a wait.

        Args:
            lock: The key of the lock.
            acquire: Takes it, with the parameters of ``acquire``.
            timeout: Seconds to wait for it at most; 0 does not wait, None waits without end.
            recorded: Gets ``TAKEN`` if it is recorded that it was taken.
        """
        begin = perf_counter_ns()
        if acquire(False):  # noqa: FBT003 - it takes no keyword for it
            begin = perf_counter_ns()
            recorded.append(TAKEN)
            self.add(TAKEN, lock, begin, begin)
        elif timeout != 0:
            try:
                self.add(WAITS, lock, begin, begin)
                taken = acquire(True, timeout)  # noqa: FBT003 - as above
            except BaseException:
                self.add(GAVE_UP, lock, begin, perf_counter_ns())
                raise
            recorded.append(TAKEN)
            self.add(TAKEN if taken else GAVE_UP, lock, begin, perf_counter_ns())

    def start(self, locks: Iterable[object]) -> None:
        """Record what is done with locks from now on: with *locks*, and with all others of poollock."""
        _recorders.append(self)
        # Not one whose creator has ended.
        classes: set[Any] = {type(lock) for lock in locks if isinstance(lock, BaseLock)}
        for cls in {Lock, RLock, Semaphore, *classes}:
            for name, method in _recording_methods(self, cls).items():
                self._replaced.append((cls, name, vars(cls).get(name)))
                setattr(cls, name, method)

    def stop(self) -> None:
        """Record nothing more, in a process that was forked: the memory is its parent's."""
        _recorders.remove(self)
        self.add = _ignore  # type: ignore[method-assign] # for a call that is interrupted by the fork
        for cls, name, method in self._replaced:
            if method is None:
                delattr(cls, name)
            else:
                setattr(cls, name, method)


def _ignore(kind: int, lock: int, begin: int, end: int) -> None:
    pass


def _recording_methods(recorder: Recorder, cls: type[Any]) -> dict[str, Callable[..., Any]]:
    """Return the methods of *cls* that take a lock and give it back, such that they record it."""
    plain_acquire, plain_release, plain_release_if_held = cls.acquire, cls.release, cls._release_if_held

    @wraps(plain_acquire)
    def acquire(self: BaseLock, block: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 - multiprocessing's
        # Filled in C: a signal handler that raises finds in it whether the lock was taken.
        taken: list[bool] = []
        recorded: list[int] = []
        take = partial(_call_into, taken, plain_acquire, self)
        try:
            recorder.acquire(lock_key(self), take, timeout if block else 0, recorded)
        except BaseException:
            if taken == [True]:
                (release if recorded else plain_release)(self)
            raise
        return taken == [True]

    @wraps(plain_release)
    def release(self: BaseLock) -> None:
        end = perf_counter_ns()
        released: list[None] = []
        try:
            _call_into(released, plain_release, self)
        finally:
            if released:
                recorder.add(RELEASED, lock_key(self), end, end)

    def enter(self: BaseLock) -> bool:
        return acquire(self)

    def leave(self: BaseLock, *_: object) -> None:
        release(self)

    def release_if_held(self: BaseLock) -> bool:
        held = plain_release_if_held(self)
        if held:
            end = perf_counter_ns()  # after whatever that has released one by one
            recorder.add(FREED, lock_key(self), end, end)
        return bool(held)

    return {
        "acquire": acquire,
        "release": release,
        "__enter__": enter,
        "__exit__": leave,
        "_release_if_held": release_if_held,
    }


def _call_into(results: list[Any], function: Callable[..., Any], *args: Any) -> Any:
    """Call *function*, and put what it returns into *results* before anything else can happen."""
    results[:] = map(function, *[(arg,) for arg in args])
    return results[0]


def _after_fork() -> None:
    for recorder in _recorders[:]:
        recorder.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
