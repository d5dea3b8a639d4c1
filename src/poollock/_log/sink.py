"""What a record is written to: whole, and by one thread of a process at a time.

Three may want to write at once: another process, another thread, and code that runs in the middle of
a record in the same thread, which is a signal handler or a finalizer.  Processes are kept apart by a
lock of the operating system, threads by an ``RLock``.  The third cannot wait for the record that it
has interrupted, so it never takes a lock.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from threading import RLock, local
from typing import Any, final


class _Progress:
    """Where a thread is: outside of records, in one, or in one that was interrupted to write others.

    Attributes:
        depth: 0 outside of records, 1 in one.  Each record that is written in the middle of that adds 1,
            which stays until that one has ended.
        deferred: What is to be done after the record.
    """

    __slots__ = ("deferred", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self.deferred: list[Callable[[], object]] = []


class _Threads(local):
    """The progress of the running thread: one attribute, since one of a thread takes long to find."""

    def __init__(self) -> None:
        self.progress = _Progress()


threads = _Threads()


class Sink(ABC):
    """A log file, or a console, as this process has it open.

    Args:
        lock: The user's lock, held during each record as well.
        mutex: What keeps threads apart.  There is one for each file, so that a slow one stops only those
            threads that write to it.
    """

    __slots__ = ("_lock", "_mutex")

    def __init__(self, lock: AbstractContextManager[Any] | None, mutex: RLock) -> None:
        self._lock = lock
        self._mutex = mutex

    @final
    def append(self, data: bytes) -> None:
        """Write one record, whole.

        Raises:
            ValueError: The sink is closed.
            OSError: The record cannot be written.
        """
        progress = threads.progress
        if progress.depth:
            progress.depth += 1
            self._append_inside(data)
            return
        mutex = self._mutex
        progress.depth = 1
        try:
            if self._lock is None:
                mutex.acquire()  # "with mutex" takes twice as long on Python 3.11
                self._append(data)
            else:
                with self._lock:
                    mutex.acquire()
                    self._append(data)
        finally:
            progress.depth = 0  # what a signal handler writes from here on interrupts nothing
            try:
                mutex.release()
            except RuntimeError:  # a signal handler raised while this thread waited for the mutex
                pass
            finally:
                if progress.deferred:
                    _run_deferred(progress)

    @final
    def run_locked(self, call: Callable[[], object]) -> None:
        """Call *call* under the locks of a record; after the record, in the middle of one."""
        progress = threads.progress
        if progress.depth:
            progress.deferred.append(partial(self.run_locked, call))
            return
        progress.depth = 1
        try:
            with nullcontext() if self._lock is None else self._lock, self._mutex:
                call()
        finally:
            progress.depth = 0
            _run_deferred(progress)

    @abstractmethod
    def _append(self, data: bytes) -> None:
        """Write one record; this thread holds the user's lock and the mutex."""

    @abstractmethod
    def _append_inside(self, data: bytes) -> None:
        """Write one record in the middle of another one, which this thread writes to this or another sink.

        The interrupted record may hold any lock, or be waiting for it, so this one takes none.
        """

    def fileno(self) -> int:
        """Return a descriptor of what is written to.

        Raises:
            OSError: It has none for others.
        """
        raise io.UnsupportedOperation("fileno")

    @final
    def close(self) -> None:
        """Close it, after the record in whose middle a signal handler may have called this."""
        if not threads.progress.depth:
            with self._mutex:
                self.close_after_fork()
        # Else LogFile.__del__ does, when the interrupted record has dropped the last reference to it.

    @abstractmethod
    def close_after_fork(self) -> None:
        """Close it in a forked child, where another thread of the parent may hold the mutex for ever."""


def _run_deferred(progress: _Progress) -> None:
    calls, progress.deferred = progress.deferred, []
    with ExitStack() as stack:  # it makes all of the calls, though one may raise
        for call in reversed(calls):
            stack.callback(call)


def _after_fork() -> None:
    threads.progress = _Progress()  # a signal handler may have forked in the middle of a record


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
