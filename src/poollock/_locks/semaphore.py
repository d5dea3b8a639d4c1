"""Semaphore, which as many may have at once as it has places."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, final

from poollock._checks import check_size
from poollock._typing import override

from .holder_table import SIZE, HolderTable
from .semaphore_lock import ABANDONED, SemaphoreLock
from .shared_semaphore import MAXVALUE, PLAIN, SharedSemaphore
from .shared_words import SharedWords

_TRIES = 100  # of reading who has places, until no place was passed on meanwhile


def _no() -> bool:
    return False


@final
class Semaphore(SemaphoreLock):
    """``multiprocessing.Semaphore`` that knows its holders and can be sent to workers in a task.

    Args:
        value: How many may hold it at once.
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the semaphore; ``None`` is the default context.

    Raises:
        TypeError: *value* is no int, or *context* is neither a context nor a name.
        ValueError: *value* is negative, or this platform has no such start method.
        OSError: The system has no semaphore left, or no place for one.
    """

    __module__ = "poollock"

    # The main thread, where signal handlers run and the tasks of a pool, has a view of the semaphore
    # to itself.  If a handler raises in the middle, what that view has counted differs from what the
    # main thread has recorded, and it can be told what was done.  To record is one step, in which
    # nothing is called: no other thread and no signal handler runs in between.
    __slots__ = ("_in_main_thread", "_table", "_value")

    def __init__(self, value: int = 1, *, context: BaseContext | str | None = None) -> None:
        self._value: int = check_size("value", value)
        self._create(context, PLAIN, self._value, MAXVALUE, SIZE)

    @override
    def _build(self, method: str, semaphore: SharedSemaphore, shared: SharedWords) -> None:
        super()._build(method, semaphore, shared)
        self._table = HolderTable(shared)
        # Returns False also if this process has no row in the table yet.
        self._in_main_thread: Callable[[], bool] = _no

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        *common, self._value = parts
        super()._set_state(tuple(common))

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return *super()._get_state(), self._value

    @property
    def value(self) -> int:
        """How many may hold the semaphore at once."""
        return self._value

    def get_value(self) -> int:
        """Return how many more can take the semaphore now."""
        try:
            return self._semaphore.value()
        except NotImplementedError:  # macOS
            return max(0, self._value + self._table.added() - self._table.taken())

    @override
    def __enter__(self) -> bool:
        if not self._in_main_thread() and not self._prepare():
            return self._acquire_in_thread(True, None)  # noqa: FBT003 - as acquire's parameters
        try:
            if not self._take(False):  # noqa: FBT003 - a keyword takes longer
                self._wait(self._take)
            table = self._table
            table.main_places = table.main_word[...] = table.main_places + 1
        except BaseException:
            self._release_unrecorded()
            raise
        return True

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None:
        if not self._in_main_thread():
            return self._release_elsewhere()
        table = self._table
        if not table.main_places:
            return self._release_elsewhere()
        table.main_places = table.main_word[...] = table.main_places - 1
        return self._semlock.release()

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if not self._in_main_thread() and not self._prepare():
            return self._acquire_in_thread(block, timeout)
        try:
            if timeout is not None:
                if not self._take(block, timeout):
                    return False
            elif not self._take(False) and not (block and self._wait(self._take)):  # noqa: FBT003 - as above
                return False
            table = self._table
            table.main_places = table.main_word[...] = table.main_places + 1
        except BaseException:
            self._release_unrecorded()
            raise
        return True

    @override
    def release(self) -> None:
        """Give one place back; as in multiprocessing, whoever calls this."""
        if not self._in_main_thread():
            return self._release_elsewhere()
        table = self._table
        if not table.main_places:
            return self._release_elsewhere()
        table.main_places = table.main_word[...] = table.main_places - 1
        return self._semlock.release()

    def _prepare(self) -> bool:
        """Get ready for the first use in this process, or in its main thread; return whether it is that."""
        if self._in_main_thread is _no:
            self._table.claim(self._pid)
            self._in_main_thread = _main_thread._is_owned
        if threading.get_ident() != threading.main_thread().ident:
            return False
        _main_thread.acquire(blocking=False)
        return True

    def _acquire_in_thread(self, block: bool, timeout: float | None) -> bool:  # noqa: FBT001 - acquire's
        take = self._plain.acquire
        if timeout is not None:
            if not take(block, timeout):
                return False
        elif not take(False) and not (block and self._wait(take)):  # noqa: FBT003 - it takes no keyword for it
            return False
        table = self._table
        table.thread_places = table.thread_word[...] = table.thread_places + 1
        return True

    def _release_elsewhere(self) -> None:
        """Release a place in another thread than the main one, or a place that the main thread has not."""
        self._prepare()
        table = self._table
        if table.thread_places:
            table.thread_places = table.thread_word[...] = table.thread_places - 1
        elif table.main_places:
            table.main_places = table.main_word[...] = table.main_places - 1
            return self._semlock.release()
        else:
            return table.release_anothers(self._plain.release)
        return self._plain.release()

    def _release_unrecorded(self) -> None:
        """Release what the main thread has taken and not recorded: a signal handler has raised."""
        if self._semlock._count() > self._table.main_places:
            self._semlock.release()
        self._table.main_word[...] = self._table.main_places

    @override
    def _release_if_held(self) -> bool:
        self._release_unrecorded()
        table, alone = self._table, threading.active_count() == 1
        places = table.main_places + (table.thread_places if alone else 0)
        if not places:
            return False
        held = max(0, places - table.returned)
        for _ in range(held):
            self.release()
        if held < places:  # another process has released the others
            self._semlock._after_fork()  # it has no other method that forgets what was taken
            table.settle(threads=alone)
        return held > 0

    @override
    def _recover(self, pid: int) -> bool:
        places = self._table.recover(pid)
        for _ in range(places):
            self._force_release_one()
        return places > 0

    def _unrecorded(self) -> int:
        try:
            free = self._semaphore.value()
        except NotImplementedError:  # macOS
            free = 0 if self.locked() else self._value
        return max(0, self._value + self._table.added() - free - self._table.taken())

    @override
    def _is_unrecorded(self) -> bool:
        return self._unrecorded() > 0

    @override
    def _force_release(self) -> None:
        for _ in range(self._unrecorded()):
            self._force_release_one()

    def _force_release_one(self) -> None:
        self._words[ABANDONED] = 1
        self._plain.release()

    @property
    @override
    def holders(self) -> tuple[int, ...]:
        # The rows are read one after the other: a place that is passed on meanwhile may be read twice.
        held: dict[int, int] = {}
        for _ in range(_TRIES):
            held = self._table.holders()
            if sum(held.values()) <= self._value + self._table.added():
                break
        return tuple(pid for pid, places in held.items() for _ in range(places))

    @override
    def locked(self) -> bool:
        # On macOS, asking a semaphore takes it for a moment.
        if sys.platform == "darwin" and self._table.taken() >= self._value + self._table.added():
            return True
        return super().locked()

    @override
    def _after_fork(self) -> None:
        super()._after_fork()
        self._table.forget()
        self._in_main_thread = _no

    @override
    def _state(self) -> str:
        return f"{super()._state()}, {self._value} at most"


# The main thread owns this once it has used a Semaphore.  Asking who owns it takes half of the time that
# get_ident() takes.
_main_thread: Any = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        after_in_child=_main_thread._at_fork_reinit
    )  # another thread may be the main one there
