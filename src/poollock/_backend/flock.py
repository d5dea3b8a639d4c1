"""What each platform does differently with an open file: its lock, reading at a place, and the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from time import sleep

WOULD_BLOCK = (BlockingIOError, PermissionError)  # what LOCK_NB raises; the second on Linux's cifs
_TRIES = 100
_PAUSE = 0.001  # seconds

if sys.platform == "win32":  # not run here: the project's machines have Linux
    import msvcrt

    LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8
    OPEN_FLAGS = os.O_BINARY | os.O_NOINHERIT
    _FAR = 1 << 62  # a byte that no log reaches: Windows locks forbid others to read what is locked

    def flock(fd: int, operation: int) -> None:
        """Take or give back the lock on the file that *fd* has opened."""
        mode = {LOCK_UN: msvcrt.LK_UNLCK, LOCK_EX: msvcrt.LK_LOCK}.get(operation, msvcrt.LK_NBLCK)
        while True:
            os.lseek(fd, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(fd, mode, 1)
            except PermissionError as error:  # after ten tries, one a second
                if mode == msvcrt.LK_NBLCK:
                    raise BlockingIOError(error.errno, error.strerror) from None
            else:
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
def open_directory(path: str) -> Generator[int, None, None]:
    """Open the directory of *path*."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | OPEN_FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def locked_directory(path: str) -> Generator[bool, None, None]:
    """Hold the lock of the directory of *path*, and say whether it could be had.

    A directory that cannot be opened or has no lock, as on NFS, does without.  Somebody else may
    keep the lock for long, such as a shell's ``flock DIRECTORY PROGRAM``.
    """
    try:
        fd = os.open(os.path.dirname(path), os.O_RDONLY | OPEN_FLAGS)
    except OSError:
        yield True
        return
    try:
        yield _try_lock(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    for _ in range(_TRIES):
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except WOULD_BLOCK:
            sleep(_PAUSE)
        except OSError:
            return True
        else:
            return True
    return False


__all__ = [
    "LOCK_EX",
    "LOCK_NB",
    "LOCK_UN",
    "OPEN_FLAGS",
    "WOULD_BLOCK",
    "flock",
    "locked_directory",
    "lockf",
    "open_directory",
    "pread",
    "sync",
]
