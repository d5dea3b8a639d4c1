"""The console as a log: what other processes write to it does not come between."""

from __future__ import annotations

import io
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

# The names of the two streams, in messages and in what is sent to another process.
CONSOLES = {"<stdout>": "stdout", "<stderr>": "stderr"}

# The mutex of each terminal, pipe or file, by device and inode: both streams may lead to the same.
_mutexes: dict[tuple[int, int], RLock] = {}
_NO_FILE = os.stat_result((0,) * 10)


class Console(Sink):
    """``sys.stdout`` or ``sys.stderr`` of this process.

    All processes of a program share the open file description of their console, so ``flock``
    would not keep them apart.  ``lockf`` does: its locks belong to the process.

    A record goes to the descriptor if the stream's ``write`` is that of a text file.  Other streams, of a
    notebook or a test for example, may have no descriptor, or do more with text than to write it there:
    they are given the text.

    Args:
        stream: The stream.
        lock: The user's lock, held during each record instead of ``lockf``.
        encoding: The encoding of the records.

    Raises:
        ValueError: The stream is closed.
    """

    __slots__ = ("_closed", "_encoding", "_fd", "_has_lock", "_is_file", "_stream")

    def __init__(self, stream: Any, lock: AbstractContextManager[Any] | None, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._closed = False
        self._fd = fd = _descriptor(stream)
        self._has_lock = fd >= 0 and lock is None
        self._is_file = (
            fd >= 0
            and getattr(stream.__class__, "write", None) is io.TextIOWrapper.write
            and not (sys.platform == "win32" and os.isatty(fd))  # bytes would be shown in an older encoding
        )
        status = os.fstat(fd) if fd >= 0 else _NO_FILE
        super().__init__(lock, _mutexes.setdefault((status.st_dev, status.st_ino), RLock()))

    @override
    def _append(self, data: bytes) -> None:
        fd = self._fd
        if self._closed:
            raise ValueError("I/O operation on closed file")
        try:
            if self._has_lock:
                lockf(fd, LOCK_EX)
            if not self._is_file:
                self._show(data.decode(self._encoding, "backslashreplace"))
                return
            self._stream.flush()  # text that print() has left in its buffer comes first
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:  # another program that shares this console has made it non-blocking
                    select.select([], [fd], [])
        finally:
            if self._has_lock:
                lockf(fd, LOCK_UN)

    def _show(self, text: str) -> None:
        # A stream that takes text makes the newlines of the system itself.
        self._stream.write(text.replace(os.linesep, "\n"))
        if hasattr(self._stream, "flush"):  # print() does not need it either
            self._stream.flush()

    @override
    def _append_inside(self, data: bytes) -> None:
        # Later: a terminal or a pipe may have taken a part of the interrupted record.
        threads.progress.deferred.append(partial(self.append, data))

    @override
    def fileno(self) -> int:
        return super().fileno() if self._fd < 0 else self._fd

    @override
    def close_after_fork(self) -> None:
        self._closed = True


def _descriptor(stream: Any) -> int:
    """Return the descriptor of a stream, or -1 if it has none."""
    try:
        fd: int = stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return -1
    return fd


def stream_of(target: str, writer: type) -> Any:
    """Return the stream of this process that *target* names.

    If the program has put a *writer* in the stream's place, this is the stream that it replaces.

    Raises:
        ValueError: The process has none.
    """
    name = CONSOLES[target]
    stream = getattr(sys, name)
    if isinstance(stream, writer):
        stream = getattr(sys, f"__{name}__")
    if stream is None:
        raise ValueError(f"this process has no sys.{name}")
    return stream


def target_of(path: Any) -> str:
    """Return the absolute path of a file, or the name of a console: what another process understands too.

    Raises:
        TypeError: *path* is neither a path nor one of this process's two streams.
        ValueError: *path* is None, because this process has no such stream.
    """
    for target, name in CONSOLES.items():
        if any(path is stream for stream in (getattr(sys, name), getattr(sys, f"__{name}__"))):
            if path is None:
                raise ValueError(f"this process has no sys.{name}")
            return target
    # Absolute, because a worker may be in another directory.
    return os.path.abspath(os.fsdecode(path))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mutexes.clear)  # a thread of the parent may hold one
