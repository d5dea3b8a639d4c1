"""A log file as one process has it open: whole records at its end, whoever else writes or renames it."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from os import stat, write
from stat import S_ISREG
from threading import RLock
from typing import Any, NamedTuple

from poollock._backend.flock import (
    LOCK_EX,
    LOCK_NB,
    LOCK_UN,
    OPEN_FLAGS,
    WOULD_BLOCK,
    closing_fd,
    create_file,
    flock,
    locked_directory,
    open_directory,
    pread,
    sync,
)
from poollock._typing import override

from .sink import Sink, threads

_LOCK_NOW = LOCK_EX | LOCK_NB
_TRIES = 2  # to be as quick as who has the lock: to sleep and be woken takes longer than a record
_PATIENCE = 1.0  # seconds for the lock of a directory, which a process that rotates has for much less
_NO_FILE = os.stat_result((0,) * 10)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FileOptions(NamedTuple):
    """How a log file is written.

    Attributes:
        newline: What ends a line, encoded.
        ending: The last character of it, encoded: a file that does not end so was cut short.
        max_bytes: The size that the file is not to exceed; 0 is none.
        backup_count: How many older files are kept, as ``path.1`` and so on.
        fsync: Whether a record is on the disk when its write returns.
        namer: What makes the name of an older file from ``path.1`` and so on, if that is not to be it.
        rotator: What makes the first of the older files from the file, if renaming is not enough.
    """

    newline: bytes
    ending: bytes
    max_bytes: int
    backup_count: int
    fsync: bool
    namer: Callable[[str], str] | None
    rotator: Callable[[str, str], object] | None


class LogFile(Sink):
    """The file at *path*, created if there is none; or a pipe, a terminal or a device that is there.

    What is no regular file has the size 0 for the system, so none of what depends on the size is done to it.

    ``flock`` belongs to the open file description.  Threads share it, and so does a forked child,
    which must make a LogFile of its own.

    If a process is killed anywhere in here, the kernel frees its lock.  The next one finds a record
    cut short, or a rotation half done, and goes on from there.
    """

    __slots__ = (
        "_backup_count",
        "_device",
        "_encoded_path",
        "_ending",
        "_fd",
        "_flock",
        "_fsync",
        "_has_warned",
        "_inode",
        "_limit",
        "_namer",
        "_newline",
        "_path",
        "_patience",
        "_regular",
        "_rotator",
        "_size",
        "_width",
    )

    def __init__(self, path: str, options: FileOptions, lock: AbstractContextManager[Any] | None) -> None:
        super().__init__(lock, RLock())
        self._fd = -1
        self._path = path
        self._encoded_path = os.fsencode(path)  # which stat would do each time
        self._newline = options.newline
        self._ending = options.ending
        self._width = len(options.ending)
        self._backup_count = options.backup_count
        self._limit = options.max_bytes or sys.maxsize
        self._fsync = options.fsync
        self._namer = options.namer
        self._rotator = options.rotator
        self._has_warned = False
        self._patience = _PATIENCE  # 0 once it was in vain: not every record is to wait
        self._flock: Callable[[int, int], None] = flock
        self._size = -1  # after the last record of this process
        self._fd = open_log(path)
        try:
            self._remember_identity()
            self._check_locks()
        except BaseException:
            self.close_after_fork()
            raise

    @override
    def _append(self, data: bytes) -> None:
        fd = self._fd
        if fd < 0:
            raise ValueError("I/O operation on closed file")
        try:
            try:
                self._flock(fd, _LOCK_NOW)
            except WOULD_BLOCK:
                self._wait_for_lock(fd)
            try:
                status = stat(self._encoded_path)
            except FileNotFoundError:
                status = _NO_FILE
            size = status.st_size
            length = len(data)
            if status.st_ino != self._inode or status.st_dev != self._device or size + length > self._limit:
                size = self._prepare(length)
            if size != self._size and not self._ends_line(fd, size):  # somebody else has been killed
                size, data = self._start_line(size, data)
                length = len(data)
            try:
                written = write(fd, data)
                while written != length:  # a full disk takes a part, and refuses the rest
                    written += write(fd, data[written:])
            except BaseException:
                self._truncate_partial(size, length)
                raise
            self._size = size + length
            if self._fsync:
                self._flock(fd, LOCK_UN)  # nobody need wait for the disk but the caller
                sync(fd)
        finally:
            self._flock(fd, LOCK_UN)

    @override
    def _append_inside(self, data: bytes) -> None:
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        if not self._regular:  # a pipe may have taken a part of the interrupted record
            threads.progress.deferred.append(partial(self.append, data))
            return
        # A descriptor of its own: a rotation may be half done, or another thread be closing self._fd.
        # O_APPEND keeps this record and the interrupted one apart.
        fd = self.open_again()
        with closing_fd(fd):
            if not self._ends_line(fd, os.fstat(fd).st_size):
                data = self._newline + data
            written = write(fd, data)
            while written != len(data):
                written += write(fd, data[written:])
            if self._fsync:
                sync(fd)

    @override
    def close_after_fork(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close_after_fork  # what Sink.close left

    def rotate(self) -> None:
        """Rename the file now, and the older ones before it.

        In the middle of a record of this thread that is left to the end of the record.

        Raises:
            OSError: The file cannot be renamed, or somebody keeps the lock of the directory.
        """
        self.run_locked(self._rotate_now)

    def _rotate_now(self) -> None:
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        if not self._backup_count or not self._regular:
            return
        try:
            self._flock(self._fd, LOCK_EX)
            while not is_at_path(self._path, self._fd):
                self._follow()
            if not self._rename_all(_PATIENCE):
                raise BlockingIOError(errno.EAGAIN, "somebody keeps the lock of the directory", self._path)
        finally:
            self._flock(self._fd, LOCK_UN)

    def open_again(self) -> int:
        """Return a new descriptor of the file that is at the path, which is created if there is none."""
        create_like(self._fd, self._path)
        return open_log(self._path)

    def _wait_for_lock(self, fd: int) -> None:
        for _ in range(_TRIES):
            with suppress(*WOULD_BLOCK):
                self._flock(fd, _LOCK_NOW)
                return
        self._flock(fd, LOCK_EX)

    def _remember_identity(self) -> None:
        status = os.fstat(self._fd)
        self._inode, self._device = status.st_ino, status.st_dev
        self._regular = S_ISREG(status.st_mode)
        if self._fsync and not self._regular:
            raise OSError(errno.EINVAL, "fsync is for files, and this is none", self._path)
        if self._fsync and sys.platform != "win32":  # which opens no directory
            with open_directory(self._path) as directory:
                os.fsync(directory)

    def _check_locks(self) -> None:
        try:
            flock(self._fd, _LOCK_NOW)
        except WOULD_BLOCK:
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if self._lock is None:
                reason = f"{error.strerror}: the file system has no locks; pass a lock that all writers share"
                raise OSError(error.errno, reason, self._path) from None
            self._flock = _no_lock
        else:
            flock(self._fd, LOCK_UN)

    def _prepare(self, length: int) -> int:
        """Make sure that this is the file at the path, and that *length* bytes fit; return its size."""
        has_rotated = False
        while True:
            while not is_at_path(self._path, self._fd):
                self._follow()
            size = os.fstat(self._fd).st_size
            fits = not size or size + length <= self._limit
            # A rotator may log, and have filled the new file already.
            if fits or (has_rotated and self._rotator) or not self._rotate():
                return os.fstat(self._fd).st_size
            has_rotated = True

    def _follow(self) -> None:
        """Go on with the file that is at the path now."""
        self._flock(self._fd, LOCK_UN)  # a child that is just being forked may keep the file open
        if self._fsync:
            sync(self._fd)
        reopen_log(self._path, self._fd)
        self._remember_identity()
        self._flock(self._fd, LOCK_EX)

    def _ends_line(self, fd: int, size: int) -> bool:
        if not size:
            return True
        width = self._width
        if size % width:
            return False
        try:
            return pread(fd, width, size - width) == self._ending
        except OSError:  # it may be written and not read
            return True

    def _start_line(self, size: int, data: bytes) -> tuple[int, bytes]:
        """Have *data* begin a line of its own."""
        part = size % self._width  # of a character of several bytes
        if part:
            os.ftruncate(self._fd, size - part)
        return size - part, self._newline + data

    def _rotate(self) -> bool:
        """Rename the file, and the older ones before it, from the first gap down.

        If the process is killed between two steps there is a gap, which is filled by the next.
        Another program may have renamed the file, and others have filled a new one: what keeps
        them from rotating too is a lock on the directory.

        Returns:
            Whether another file is, or may be, at the path now.  If not, this one grows: somebody keeps the
            lock of the directory, or the system refuses, as in a directory that cannot be written to.
        """
        try:
            could_lock = self._rename_all(self._patience)
            self._patience = _PATIENCE if could_lock else 0
            return could_lock and not is_at_path(self._path, self._fd)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                threads.progress.deferred.append(partial(_warn_of_growth, self._path, error))
            return False

    def _rename_all(self, patience: float) -> bool:
        """Do that; return whether the lock of the directory could be had within *patience* seconds."""
        with locked_directory(self._path, patience) as locked:
            if locked and is_at_path(self._path, self._fd):
                number = 1
                while number < self._backup_count and os.path.lexists(self._backup(number)):
                    number += 1
                for target in range(number, 1, -1):
                    with suppress(FileNotFoundError):  # somebody else has removed it
                        os.replace(self._backup(target - 1), self._backup(target))
                self._rename_to(self._backup(1))
                create_like(self._fd, self._path)
            return locked

    def _backup(self, number: int) -> str:
        name = f"{self._path}.{number}"
        return self._namer(name) if self._namer else name

    def _rename_to(self, name: str) -> None:
        if self._rotator:
            with suppress(FileNotFoundError):
                os.remove(name)
            self._rotator(self._path, name)
            return
        with suppress(FileNotFoundError):
            os.replace(self._path, name)
        if is_at_path(self._path, self._fd):  # that is another name of it: rename(2) does nothing
            os.unlink(self._path)

    def _truncate_partial(self, size: int, length: int) -> None:
        """Remove the part that there is of a record of *length* bytes, which begins at *size*."""
        self._size = -1
        if threads.progress.depth > 1:  # what is there may be the record of a signal handler, and whole
            return
        with suppress(OSError):
            if size < os.fstat(self._fd).st_size < size + length:
                os.ftruncate(self._fd, size)


def open_log(path: str) -> int:
    """Open a file to append to, and create it if there is none."""
    try:
        return _open(path, 0)
    except FileNotFoundError:
        # A process that rotates has the lock until there is a new file, which has the mode of the old one.
        with locked_directory(path, _PATIENCE / 10):
            return _open(path, os.O_CREAT)


def _open(path: str, flags: int) -> int:
    flags |= os.O_APPEND | OPEN_FLAGS
    if not _is_special(path):
        with suppress(PermissionError):  # it may be written and not read, perhaps
            return os.open(path, os.O_RDWR | flags, 0o666)
    return os.open(path, os.O_WRONLY | flags, 0o666)


def _is_special(path: str) -> bool:
    """Return whether *path* is there and no regular file.

    A pipe must not be opened for reading too: its writer would be a reader that never ends.
    """
    try:
        return not S_ISREG(stat(path).st_mode)
    except OSError:  # there is none; or to open it fails, too, and says why
        return False


def create_like(fd: int, path: str) -> None:
    """Create a file at *path*, if there is none, with the mode, owner and group of that of *fd*."""
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
    """Return whether *path* is the name of the file that *fd* has open."""
    try:
        return os.path.samestat(stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _warn_of_growth(path: str, error: OSError) -> None:
    reason = error.strerror or error
    warnings.warn(
        f"{path} is larger than max_bytes and grows on, since it cannot be renamed: {reason}",
        RuntimeWarning,
        stacklevel=7,  # what has called write(), as nobody in between is of interest
    )


def _no_lock(fd: int, operation: int) -> None:
    pass
