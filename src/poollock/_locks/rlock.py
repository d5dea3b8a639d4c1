"""RLock, which the thread that has it may take again."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from types import TracebackType
from typing import final

from poollock._backend.describe import describe
from poollock._typing import override

from .lock import ExclusiveLock
from .shared_semaphore import RECURSIVE, SharedSemaphore
from .shared_words import SharedWords


@final
class RLock(ExclusiveLock):
    """``multiprocessing.RLock`` that knows its holder and can be sent to workers in a task.

    Args:
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the lock; ``None`` is the default context.

    Raises:
        TypeError: *context* is neither a context nor a name.
        ValueError: This platform has no such start method.
        OSError: The system has no semaphore left, or no place for one.
    """

    __module__ = "poollock"

    # The semaphore itself counts how often its thread has taken it.  `_again` is the same count, of
    # what is done: if a signal handler raises in the middle, the two differ by one.
    __slots__ = ("_again",)

    _is_recursive = True

    def __init__(self, *, context: BaseContext | str | None = None) -> None:
        self._create_exclusive(context, RECURSIVE)

    @override
    def _build(self, method: str, semaphore: SharedSemaphore, shared: SharedWords) -> None:
        super()._build(method, semaphore, shared)
        self._again: int | None = None  # None if this process does not have the lock

    @override
    def __enter__(self) -> bool:
        try:
            if not self._take(False):  # noqa: FBT003 - a keyword takes longer
                self._wait(self._take)
            if self._again is None:
                self._holder[...] = self._pid
                self._again = 0
            else:
                self._again += 1
        except BaseException:
            self._release_uncounted()
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
        if self._again == 0:
            self._again = None
            self._holder[...] = 0
        elif self._again:
            self._again -= 1
        return self._semlock.release()

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        try:
            if timeout is not None:
                if not self._take(block, timeout):
                    return False
            elif not self._take(False) and not (block and self._wait(self._take)):  # noqa: FBT003 - as above
                return False
            if self._again is None:
                self._holder[...] = self._pid
                self._again = 0
            else:
                self._again += 1
        except BaseException:
            self._release_uncounted()
            raise
        return True

    @override
    def release(self) -> None:
        """Give the lock back, once for each time it was taken.

        Raises:
            AssertionError: Another thread or process holds the lock, or nobody, as with
                ``multiprocessing.RLock``.
        """
        if not self._semlock._is_mine():
            raise AssertionError(f"{self.description} is not held by this thread of {describe()}: {self!r}")
        if self._again:
            self._again -= 1
        else:
            self._again = None
            self._holder[...] = 0
        return self._semlock.release()

    def _release_uncounted(self) -> None:
        """Release what this thread has taken once too often: a signal handler has raised."""
        taken = 0 if self._again is None else self._again + 1
        if self._semlock._is_mine() and self._semlock._count() > taken:
            if not taken:
                self._holder[...] = 0
            self._semlock.release()

    @override
    def _release_if_held(self) -> bool:
        self._release_uncounted()
        if not self._may_release():
            return False
        self._again = None
        self._semlock._after_fork()  # it has no other method that forgets what was taken
        self._holder[...] = 0
        self._plain.release()
        return True

    @override
    def _after_fork(self) -> None:
        super()._after_fork()
        self._again = None
