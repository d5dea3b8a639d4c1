"""Words of shared memory: 64 bits each, written in one store, seen by every process."""

from __future__ import annotations

import collections
import mmap
import os
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import reduction
from multiprocessing.heap import Arena
from time import sleep
from typing import Any

if sys.platform == "win32":
    from poollock._backend.windows import named_mutex
else:
    from poollock._backend.flock import LOCK_EX, LOCK_NB, LOCK_UN, WOULD_BLOCK, lockf

_WORD = 8
_LINE = 64  # bytes; one cache line a lock, so that two busy locks do not slow each other down
_PATIENCE = 1.0  # seconds to wait for a process that has words to itself
_PAUSE = 0.001  # seconds

# A line is given out once and never again: a process that outlives the lock may still write to it.
_free: collections.deque[tuple[Arena, int]] = collections.deque()


class _Page(Arena):
    """An Arena that any pickler can send to a process that is being started.

    ForkingPickler is told elsewhere how to pickle an Arena; loky's pickler is not.
    """

    if os.name == "posix":

        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuilt_page, (self.size, reduction.DupFd(self.fd))


def _rebuilt_page(size: int, fd: Any) -> _Page:
    return _Page(size, fd.detach())


def _make_page(count: int) -> _Page:
    try:
        return _Page(count * mmap.PAGESIZE)
    except OSError as error:
        reason = f"{error.strerror}; a lock needs shared memory"
        raise OSError(error.errno, reason, error.filename) from None


class SharedWords:
    """Words of shared memory that start as zeros; pickled only while a process is being started.

    Attributes:
        view: The words.
    """

    __slots__ = ("_parts", "view")

    def __init__(self, arena: Arena, start: int, count: int) -> None:
        self._parts = (arena, start, count)
        self.view: memoryview[int] = memoryview(arena.buffer)[start : start + count * _WORD].cast("q")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def split(self, count: int) -> list[SharedWords]:
        """Return these words in parts of *count*."""
        arena, start, total = self._parts
        return [
            SharedWords(arena, start + first * _WORD, count) for first in range(0, total - count + 1, count)
        ]

    def word(self, index: int) -> Any:
        """Return a view of one word: ``word[...] = 1`` takes less time than ``view[index] = 1``."""
        return self.view[index : index + 1].cast("B").cast("q", shape=())

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other processes out for a moment; the kernel ends that if this process dies.

        After a second the block runs all the same: the process that is inside may have been stopped.
        """
        return _exclusive(self._parts[0])


if sys.platform == "win32":

    def _exclusive(arena: Arena) -> AbstractContextManager[object]:
        return named_mutex(rf"Local\{arena.name}-mutex", _PATIENCE)  # the arena has a name, and no file
else:

    @contextmanager
    def _exclusive(arena: Arena) -> Generator[None, None, None]:
        fd = arena.fd
        try:
            _try_lock(fd)
            yield
        finally:
            with suppress(OSError):
                lockf(fd, LOCK_UN)

    def _try_lock(fd: int) -> None:
        for _ in range(int(_PATIENCE / _PAUSE)):
            try:
                lockf(fd, LOCK_EX | LOCK_NB)
            except WOULD_BLOCK:
                sleep(_PAUSE)
            except OSError:  # there are no such locks here
                return
            else:
                return


def shared_words(count: int) -> SharedWords:
    """Return *count* new words."""
    size = count * _WORD
    if size > _LINE:
        pages = -(-size // mmap.PAGESIZE)
        return SharedWords(_make_page(pages), 0, count)
    while True:
        try:
            return SharedWords(*_free.popleft(), count)
        except IndexError:
            page = _make_page(1)
            _free.extend((page, start) for start in range(0, mmap.PAGESIZE, _LINE))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free.clear)  # those lines are the parent's to give out
