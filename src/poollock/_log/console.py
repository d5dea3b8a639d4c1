"""The console as a log: what other processes write to it does not come between."""

from __future__ import annotations

import os
import select
import sys
from contextlib import AbstractContextManager
from functools import partial
from threading import RLock
from typing import Any

from poollock._backend.flock import LOCK_EX, LOCK_UN, lockf
from poollock._typing import override

from .sink import Sink, threads

# What a writer goes by that writes to one.
CONSOLES = {"<stdout>": "stdout", "<stderr>": "stderr"}


# What keeps threads apart: consoles may be one terminal or pipe, by its device and inode.
_mutexes: dict[tuple[int, int], RLock] = {}


class Console(Sink):
    """``sys.stdout`` or ``sys.stderr`` of this process.

    All processes of a program share the open file description of their console, so ``flock``
    would not keep them apart.  ``lockf`` does: its locks belong to the process.

    Args:
        stream: The stream.
        lock: The user's lock, held during each record; no other is needed then.
    """

    __slots__ = ("_fd", "_stream")

    def __init__(self, stream: Any, lock: AbstractContextManager[Any] | None) -> None:
        self._stream = stream
        self._fd: int = stream.fileno()
        status = os.fstat(self._fd)
        super().__init__(lock, _mutexes.setdefault((status.st_dev, status.st_ino), RLock()))

    @override
    def _append(self, data: bytes) -> None:
        fd = self._fd
        if fd < 0:
            raise ValueError("I/O operation on closed file")
        try:
            if self._lock is None:
                lockf(fd, LOCK_EX)
            self._stream.flush()  # what it has kept back comes before
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:  # another program that has this console made it so
                    select.select([], [fd], [])
        finally:
            if self._lock is None:
                lockf(fd, LOCK_UN)

    @override
    def _append_inside(self, data: bytes) -> None:
        # After the other one: a terminal or a pipe may have taken a part of that.
        threads.progress.deferred.append(partial(self.append, data))

    @override
    def fileno(self) -> int:
        return self._fd

    @override
    def close_after_fork(self) -> None:
        """Write no more; the stream stays open."""
        self._fd = -1


def stream_of(target: str, writer: type) -> Any:
    """Return the stream of this process, which may have put a *writer* in its place."""
    name = CONSOLES[target]
    stream = getattr(sys, name)
    return getattr(sys, f"__{name}__") if isinstance(stream, writer) else stream


def target_of(path: Any) -> str:
    """Return what is written to, as another process can know it too: an absolute path, or a console.

    Raises:
        TypeError: *path* is neither a path nor a console.
        ValueError: *path* is a console that this process has not.
    """
    for target, name in CONSOLES.items():
        if any(path is stream for stream in (getattr(sys, name), getattr(sys, f"__{name}__"))):
            if path is None:
                raise ValueError(f"this process has no sys.{name}")
            return target
    # A spawned worker may be in another directory.
    return os.path.abspath(os.fsdecode(path))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mutexes.clear)  # a thread of the parent may hold one
