"""What each platform does differently with an open file: its lock, reading at a place, and the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

if sys.platform == "win32":  # not run here: the project's machines have Linux
    import msvcrt

    LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8
    OPEN_FLAGS = os.O_BINARY | os.O_NOINHERIT
    _FAR = 1 << 62  # a byte that no log reaches: Windows locks forbid others to read what is locked

    def flock(fd: int, operation: int) -> None:
        """Take or give back the lock on the file that *fd* has opened."""
        while True:
            os.lseek(fd, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(fd, msvcrt.LK_UNLCK if operation == LOCK_UN else msvcrt.LK_LOCK, 1)
            except PermissionError:  # after ten tries, one a second
                continue
            return

    lockf = flock

    def pread(fd: int, count: int, offset: int) -> bytes:
        """Return *count* bytes of a file from *offset* on."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock, lockf
    from os import pread

    OPEN_FLAGS = os.O_CLOEXEC | os.O_NOCTTY

if sys.platform == "darwin":  # not run here
    import fcntl

    def sync(fd: int) -> None:
        """Have the disk itself write what it has: fsync(2) of macOS leaves it in the disk's memory."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
else:
    sync = os.fsync


@contextmanager
def directory_of(path: str) -> Generator[int, None, None]:
    """Open the directory of *path*."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | OPEN_FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)


__all__ = ["LOCK_EX", "LOCK_NB", "LOCK_UN", "OPEN_FLAGS", "directory_of", "flock", "lockf", "pread", "sync"]
