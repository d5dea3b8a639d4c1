"""How a log file is opened, created and found again at its path."""

from __future__ import annotations

import os
from contextlib import suppress
from os import stat
from stat import S_ISREG

from poollock._backend.files import closing_fd, create_file, open_appending
from poollock._backend.flock import locked_directory

# Seconds to wait for a process that may be between two steps of a rotation: it makes the file with the old
# one's mode.  Another program may keep the lock for ever.
_PATIENCE = 5.0


def open_log(path: str) -> int:
    """Open a file to append to, and create it if there is none."""
    try:
        return open_appending(path, create=False, readable=not _is_special(path))
    except FileNotFoundError:
        # A process that rotates has the directory's lock until it has made the new file with the old mode.
        with locked_directory(path, _PATIENCE):
            return open_appending(path, create=True, readable=not _is_special(path))


def _is_special(path: str) -> bool:
    """Return whether *path* exists and is no regular file.

    A pipe must not be opened for reading too: its writer would be one of its readers, and never notice
    that the others have ended.
    """
    try:
        return not S_ISREG(stat(path).st_mode)
    except OSError:  # it does not exist; or to open it fails as well, with a better message
        return False


def create_like(fd: int, path: str) -> None:
    """Create a file at *path* with the mode, owner and group of that of *fd*, unless there is one."""
    status = os.fstat(fd)
    if S_ISREG(status.st_mode):
        with suppress(FileExistsError):
            create_file(path, status)


def reopen_log(path: str, fd: int) -> None:
    """Have *fd* stand for the file that is at *path* now, which is created if there is none."""
    create_like(fd, path)
    new = open_log(path)
    with closing_fd(new):
        os.dup2(new, fd, inheritable=False)


def is_at_path(path: str, fd: int) -> bool:
    """Return whether *path* leads to the file that *fd* has open."""
    try:
        return os.path.samestat(stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
