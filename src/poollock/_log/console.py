"""The console as a log: what other processes write to it does not come between."""

from __future__ import annotations

import os
import select
import sys
from functools import partial
from typing import Any

from poollock._backend.flock import LOCK_EX, LOCK_UN, lockf
from poollock._typing import override

from .sink import Sink, turn

# What a writer goes by that writes to one.
CONSOLES = {"<stdout>": "stdout", "<stderr>": "stderr"}


class Console(Sink):
    """``sys.stdout`` or ``sys.stderr`` of this process.

    All processes of a program share the open file description of their console, so ``flock``
    would not keep them apart.  ``lockf`` does: its locks belong to the process.

    Args:
        stream: The stream.
        guarded: Whether the user's lock is held meanwhile: no other is needed then.
    """

    __slots__ = ("_fd", "_guarded", "_stream")

    def __init__(self, stream: Any, *, guarded: bool) -> None:
        self._stream = stream
        self._fd: int = stream.fileno()
        self._guarded = guarded

    @override
    def append(self, data: bytes) -> None:
        if turn.taken:
            turn.later.append(partial(self.append, data))
            return
        turn.taken = True
        try:
            self._write(data)
        finally:
            turn.taken = False
            turn.catch_up()

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        try:
            self._lock(LOCK_EX)
            self._stream.flush()  # what it has kept back comes before
            rest = memoryview(data)
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # another program that has this console made it so
                    select.select([], [self._fd], [])
        finally:
            self._lock(LOCK_UN)

    def _lock(self, operation: int) -> None:
        if not self._guarded:
            lockf(self._fd, operation)

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._fd

    @override
    def abandon(self) -> None:
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
