"""Lock, and what it has in common with RLock: one word says which process has it."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from threading import active_count
from types import TracebackType
from typing import final

from poollock._typing import override

from .semaphore_lock import ABANDONED, SemaphoreLock
from .shared_semaphore import PLAIN, SharedSemaphore
from .shared_words import SharedWords

_HOLDER = ABANDONED + 1  # where that word stands


class ExclusiveLock(SemaphoreLock):
    """A lock that one process can have at a time."""

    __slots__ = ("_holder",)

    def _create_exclusive(self, context: BaseContext | str | None, kind: int) -> None:
        self._create(context, kind, 1, 1, words=_HOLDER + 1)

    @override
    def _build(self, method: str, semaphore: SharedSemaphore, shared: SharedWords) -> None:
        super()._build(method, semaphore, shared)
        self._holder = shared.word(_HOLDER)  # the pid of the process that has the lock

    @override
    def locked(self) -> bool:
        # The word first: on macOS, asking a semaphore takes it for a moment.
        return bool(self._holder[()]) or super().locked()

    @property
    @override
    def holders(self) -> tuple[int, ...]:
        pid = self._holder[()]
        return (pid,) if pid else ()

    @override
    def _recover(self, pid: int) -> bool:
        if self._holder[()] != pid:
            return False
        self._holder[...] = 0
        self._force_release()
        return True

    @override
    def _is_unrecorded(self) -> bool:
        return self._semaphore.is_zero() and not self._holder[()]

    @override
    def _force_release(self) -> None:
        self._words[ABANDONED] = 1
        self._plain.release()

    def _may_release(self) -> bool:
        """Return whether this process has the lock, and no other of its threads that is alive does."""
        return self._holder[()] == self._pid and (self._semlock._is_mine() or active_count() == 1)


@final
class Lock(ExclusiveLock):
    """``multiprocessing.Lock`` that knows its holder and can be sent to workers in a task.

    Args:
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the lock; ``None`` is the default context.

    Raises:
        TypeError: *context* is neither a context nor a name.
        ValueError: This platform has no such start method.
        OSError: The system has no semaphore left, or no place for one.
    """

    __module__ = "poollock"

    __slots__ = ()

    def __init__(self, *, context: BaseContext | str | None = None) -> None:
        self._create_exclusive(context, PLAIN)

    # `with` does not call acquire and release: that would take a fifth of its time.  To return what
    # another function returns takes less than to return.

    @override
    def __enter__(self) -> bool:
        try:
            if not self._take(False):  # noqa: FBT003 - a keyword takes longer
                self._wait(self._take)
            self._holder[...] = self._pid
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
        self._holder[...] = 0
        return self._semlock.release()

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        try:
            if timeout is not None:
                if not self._take(block, timeout):
                    return False
            elif not self._take(False) and not (block and self._wait(self._take)):  # noqa: FBT003 - as above
                return False
            self._holder[...] = self._pid
        except BaseException:
            self._release_unrecorded()
            raise
        return True

    @override
    def release(self) -> None:
        if self._holder[()] != self._pid:  # another process has taken it: multiprocessing allows that
            self._holder[...] = 0
            return self._plain.release()
        self._holder[...] = 0
        return self._semlock.release()

    def _release_unrecorded(self) -> None:
        """Release the lock if this thread has it and that is not recorded: a signal handler has raised."""
        if self._semlock._is_mine() and self._semlock._is_zero() and not self._holder[()]:
            self._semlock.release()

    @override
    def _release_if_held(self) -> bool:
        self._release_unrecorded()
        if self._may_release():
            self.release()
            return True
        if self._semlock._is_mine() and self._holder[()] != self._pid:  # another process has released it
            self._semlock._after_fork()  # it has no other method that forgets what was taken
        return False
