"""What each platform does differently with a file: its lock, its owner, reading at a place, the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from stat import S_IMODE, S_IRUSR, S_IRWXG, S_IRWXO, S_IWUSR
from time import monotonic, sleep

# What flock() with LOCK_NB raises if another process has the lock; PermissionError on Linux's cifs.
WOULD_BLOCK = (BlockingIOError, PermissionError)
_PAUSE = 0.001  # seconds
_PRIVATE = S_IRUSR | S_IWUSR


@contextmanager
def closing_fd(fd: int) -> Generator[None, None, None]:
    """Close *fd* at the end of the block."""
    try:
        yield
    finally:
        os.close(fd)


if sys.platform == "win32":  # not run here: the project's machines have Linux
    import msvcrt

    LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8
    OPEN_FLAGS = os.O_BINARY | os.O_NOINHERIT
    _FAR = 1 << 62  # a byte that no log reaches, since nobody else can read what is locked on Windows

    def flock(fd: int, operation: int) -> None:
        """Take or give back the lock on the file that *fd* has open."""
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

    def create_file(path: str, like: os.stat_result) -> None:
        """Create a file; on Windows its permissions come from its directory."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666))
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock, lockf
    from os import pread

    OPEN_FLAGS = os.O_CLOEXEC | os.O_NOCTTY

    def create_file(path: str, like: os.stat_result) -> None:
        """Create a file with the mode, owner and group of another one, as far as that is permitted.

        Raises:
            FileExistsError: There is one.
        """
        try:
            _create_and_name(path, like)
        except FileExistsError:
            raise
        except (AttributeError, OSError):  # not on Linux, or on a file system that cannot do that
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, _PRIVATE)
            with closing_fd(fd):
                _copy_permissions(like, fd)

    def _create_and_name(path: str, like: os.stat_result) -> None:
        """Create a file without a name, and give it one when it has its permissions.

        Nobody sees it without them, and a process that is killed in here leaves nothing.
        """
        fd = os.open(os.path.dirname(path), os.O_WRONLY | os.O_TMPFILE | OPEN_FLAGS, _PRIVATE)
        with closing_fd(fd):
            _copy_permissions(like, fd)
            # src_dir_fd is only there because os.link() follows /proc's link with it, as open(2) describes.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)

    def _copy_permissions(like: os.stat_result, fd: int) -> None:
        """Give *fd* the permissions of another file; if some cannot be had, nobody gets more than before."""
        with suppress(OSError):
            os.fchown(fd, -1, like.st_gid)
        with suppress(OSError):
            os.fchown(fd, like.st_uid, -1)
        mode = S_IMODE(like.st_mode) | S_IWUSR
        if os.fstat(fd).st_gid != like.st_gid:  # members of the new group could do what others could
            mode = mode & ~S_IRWXG | (mode & S_IRWXO) << 3
        with suppress(OSError):  # some file systems have no modes
            os.fchmod(fd, mode)


if sys.platform == "darwin":  # not run here
    import fcntl

    def sync(fd: int) -> None:
        """Bring the file to the disk itself: fsync(2) of macOS leaves it in the disk's memory."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
else:
    sync = os.fsync


@contextmanager
def open_directory(path: str) -> Generator[int, None, None]:
    """Open the directory of *path*."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | OPEN_FLAGS)
    with closing_fd(fd):
        yield fd


@contextmanager
def locked_directory(path: str, patience: float) -> Generator[bool, None, None]:
    """Hold the lock of the directory of *path*; yield whether it could be had within *patience* seconds.

    If the directory cannot be opened or has no lock, as on NFS, that counts as had.  Another program
    may keep the lock for long, such as a shell's ``flock DIRECTORY PROGRAM``.
    """
    try:
        fd = os.open(os.path.dirname(path), os.O_RDONLY | OPEN_FLAGS)
    except OSError:
        yield True
        return
    with closing_fd(fd):
        yield _try_lock(fd, patience)


def _try_lock(fd: int, patience: float) -> bool:
    end = monotonic() + patience
    while True:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except WOULD_BLOCK:
            if monotonic() >= end:
                return False
            sleep(_PAUSE)
        except OSError:
            return True
        else:
            return True


__all__ = [
    "LOCK_EX",
    "LOCK_NB",
    "LOCK_UN",
    "OPEN_FLAGS",
    "WOULD_BLOCK",
    "closing_fd",
    "create_file",
    "flock",
    "locked_directory",
    "lockf",
    "open_directory",
    "pread",
    "sync",
]
