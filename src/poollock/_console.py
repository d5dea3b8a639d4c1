"""The console as a log: what other processes write to it does not come between."""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import Any

from ._filelock import LOCK_EX, LOCK_UN, lockf


class Console:
    """``sys.stdout`` or ``sys.stderr`` of this process.

    All processes of a program share the open file description of their console, so ``flock``
    would not keep them apart.  ``lockf`` does: its locks belong to the process.

    Args:
        name: ``"stdout"`` or ``"stderr"``.
        guarded: Whether the user's lock is held meanwhile: no other is needed then.
    """

    def __init__(self, name: str, *, guarded: bool) -> None:
        self._stream: Any = getattr(sys, name)
        self._fd: int = self._stream.fileno()
        self._guarded = guarded
        self._mutex = threading.RLock()
        self._busy = False

    def append(self, data: bytes) -> None:
        """Write one record, whole, after what the stream itself has kept back."""
        with self._mutex:
            nested, self._busy = self._busy, True  # a signal handler must leave the lock to the outer write
            try:
                self._lock(LOCK_EX)
                self._stream.flush()
                rest = memoryview(data)
                while rest:
                    try:
                        rest = rest[os.write(self._fd, rest) :]
                    except BlockingIOError:  # another program that has this console made it so
                        select.select([], [self._fd], [])
            finally:
                if not nested:
                    self._busy = False
                    self._lock(LOCK_UN)

    append_in_turn = append

    def _lock(self, operation: int) -> None:
        if not self._guarded:
            lockf(self._fd, operation)

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._fd

    def close(self) -> None:
        """Write no more; the stream stays open. A later ``append`` raises ValueError."""
        with self._mutex:
            self.abandon()

    def abandon(self) -> None:
        """The same, after a fork."""
        self._fd = -1
