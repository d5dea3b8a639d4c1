"""What each platform does differently with a file: opening, creating, replacing and cutting it, the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from stat import S_IMODE, S_IRUSR, S_IRWXG, S_IRWXO, S_IWUSR

_PRIVATE = S_IRUSR | S_IWUSR


@contextmanager
def closing_fd(fd: int) -> Generator[None, None, None]:
    """Close *fd* at the end of the block."""
    try:
        yield
    finally:
        os.close(fd)


if sys.platform == "win32":
    from .windows import create_shared, open_to_append, remove_open, rename_away, replace_open, truncate_file

    remove = remove_open
    set_apart = rename_away
    replace = replace_open
    truncate = truncate_file

    def open_appending(path: str, *, create: bool, readable: bool) -> int:
        """Open a file to append to, and to read if that is permitted."""
        return open_to_append(path, create=create)

    def create_file(path: str, like: os.stat_result) -> None:
        """Create a file, whose permissions come from its directory.

        Raises:
            FileExistsError: There is one.
        """
        create_shared(path)

    def pread(fd: int, count: int, offset: int) -> bytes:
        """Return *count* bytes of a file from *offset* on."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)

    def sync_directory(path: str) -> None:
        """Do nothing: a directory cannot be opened, and the file system keeps a journal of names."""
else:
    from os import ftruncate as truncate
    from os import pread, remove

    _FLAGS = os.O_CLOEXEC | os.O_NOCTTY

    def replace(source: str, target: str) -> None:
        """Rename *source*; what was at *target* is gone."""
        os.replace(source, target)

    @contextmanager
    def set_apart(path: str) -> Generator[str, None, None]:
        """Have somebody rename or remove the file at *path*; yield its name."""
        yield path

    def open_appending(path: str, *, create: bool, readable: bool) -> int:
        """Open a file to append to; if *readable*, to read as well, where that is permitted."""
        flags = os.O_APPEND | _FLAGS | (os.O_CREAT if create else 0)
        if readable:
            with suppress(PermissionError):  # this user may be allowed to write and not to read
                return os.open(path, os.O_RDWR | flags, 0o666)
        return os.open(path, os.O_WRONLY | flags, 0o666)

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
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, _PRIVATE)
            with closing_fd(fd):
                _copy_permissions(like, fd)

    def _create_and_name(path: str, like: os.stat_result) -> None:
        """Create a file without a name, and give it one when it has its permissions.

        Nobody sees it without them, and a process that is killed in here leaves nothing.
        """
        fd = os.open(os.path.dirname(path), os.O_WRONLY | os.O_TMPFILE | _FLAGS, _PRIVATE)
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

    def sync_directory(path: str) -> None:
        """Bring the names in the directory of *path* to the disk."""
        fd = os.open(os.path.dirname(path), os.O_RDONLY | _FLAGS)
        with closing_fd(fd):
            os.fsync(fd)


if sys.platform == "darwin":  # not run here
    import fcntl

    def sync(fd: int) -> None:
        """Bring the file to the disk itself: fsync(2) of macOS leaves it in the disk's memory."""
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError:  # its file system has no such thing
            os.fsync(fd)
else:
    sync = os.fsync


__all__ = [
    "closing_fd",
    "create_file",
    "open_appending",
    "pread",
    "remove",
    "replace",
    "set_apart",
    "sync",
    "sync_directory",
    "truncate",
]
