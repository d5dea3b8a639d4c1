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

from poollock._backend.files import (
    closing_fd,
    pread,
    remove,
    replace,
    set_apart,
    sync,
    sync_directory,
    truncate,
)
from poollock._backend.flock import LOCK_EX, LOCK_NB, LOCK_UN, WOULD_BLOCK, flock, locked_directory
from poollock._typing import override

from .opening import create_like, is_at_path, open_log, reopen_log
from .sink import Sink, threads

_LOCK_NOW = LOCK_EX | LOCK_NB
_TRIES = 2  # attempts before this process sleeps: a record is written sooner than a sleeper is woken
_PATIENCE = 1.0  # seconds to wait for the lock of a directory; a rotation takes much less
_NO_FILE = os.stat_result((0,) * 10)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FileOptions(NamedTuple):
    """How a log file is written.

    Attributes:
        newline: What ends a line, encoded.
        ending: Its last character, encoded.  A file that ends otherwise has a record that was cut short.
        max_bytes: The size in bytes that the file is not to exceed; 0 is no limit.
        backup_count: How many older files are kept, as ``path.1`` and so on.
        fsync: Whether a record is on the disk when its write returns.
        namer: Makes the name of an older file from ``path.1`` and so on; None leaves it.
        rotator: Makes the first older file from the log, given the names of both; None renames the log.
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

    The size of what is no regular file is 0, always: it does not rotate, and nothing is taken back from it.

    ``flock`` belongs to the open file description, which all threads and a forked child share.  So
    threads need a mutex, and a child must make a LogFile of its own.

    If a process is killed anywhere in here, the kernel frees its lock.  The next process finds a record
    that was cut short, or a rotation that was left half done, and goes on from there.

    Args:
        path: The path, absolute.
        options: How the file is written.
        lock: The user's lock, held during each record as well.

    Raises:
        OSError: The file cannot be opened, or its file system has no locks and there is no *lock*.
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
        self._encoded_path = os.fsencode(path)  # stat() would do that for each record
        self._newline = options.newline
        self._ending = options.ending
        self._width = len(options.ending)
        self._backup_count = options.backup_count
        self._limit = options.max_bytes or sys.maxsize
        self._fsync = options.fsync
        self._namer = options.namer
        self._rotator = options.rotator
        self._has_warned = False
        self._patience = _PATIENCE  # 0 after it was in vain, so that not each record waits
        self._flock: Callable[[int, int], None] = flock
        self._size = -1  # the size after the last record of this process; -1 if it is not known
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
            if size != self._size and not self._ends_line(fd, size):  # another process was killed
                size, data = self._start_line(size, data)
                length = len(data)
            try:
                written = write(fd, data)
                while written != length:  # a full disk takes a part, and raises for the rest
                    written += write(fd, data[written:])
            except BaseException:
                self._truncate_partial(size, length)
                raise
            self._size = size + length
            if self._fsync:
                self._flock(fd, LOCK_UN)  # only this record has to wait for the disk
                sync(fd)
        finally:
            self._flock(fd, LOCK_UN)

    @override
    def _append_inside(self, data: bytes) -> None:
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        if not self._regular:  # later: a pipe may have taken a part of the interrupted record
            threads.progress.deferred.append(partial(self.append, data))
            return
        # Through another descriptor: the interrupted record may be in the middle of a rotation, and another
        # thread may be closing self._fd.  O_APPEND has this record written at the end, wherever that is.
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

    __del__ = close_after_fork  # for a file that Sink.close() was not allowed to close

    def rotate(self) -> None:
        """Rename the file now, and the older ones before it; after the record, in the middle of one.

        Raises:
            ValueError: The file is closed.
            OSError: The file cannot be renamed, or another program keeps the lock of the directory.
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
                reason = "another program keeps the lock of the directory"
                raise BlockingIOError(errno.EAGAIN, reason, self._path)
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
        """Note which file is open; with *fsync*, have its name on the disk as well."""
        status = os.fstat(self._fd)
        self._inode, self._device = status.st_ino, status.st_dev
        self._regular = S_ISREG(status.st_mode)
        if self._fsync and not self._regular:
            raise OSError(errno.EINVAL, "fsync is for files, and this is none", self._path)
        if self._fsync:
            sync_directory(self._path)

    def _check_locks(self) -> None:
        """Do without ``flock`` if the file system has none and the user's lock is there."""
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
        """Go on with the file at the path, and rotate it if *length* bytes do not fit; return its size."""
        has_rotated = False
        while True:
            while not is_at_path(self._path, self._fd):
                self._follow()
            size = os.fstat(self._fd).st_size
            fits = not size or size + length <= self._limit
            # A rotator that logs may have filled the new file already: do not rotate for ever.
            if fits or (has_rotated and self._rotator) or not self._rotate():
                return os.fstat(self._fd).st_size
            has_rotated = True

    def _follow(self) -> None:
        """Open the file that is at the path now, and take its lock instead of the old file's."""
        # A child that is forked at this moment has the old file open, too: closing it does not free the lock.
        self._flock(self._fd, LOCK_UN)
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
        except OSError:  # this user may be allowed to write and not to read
            return True

    def _start_line(self, size: int, data: bytes) -> tuple[int, bytes]:
        """Begin a new line before *data*; return the size of the file, and what to write."""
        part = size % self._width  # bytes of a character that is not all there
        if part:
            truncate(self._fd, size - part)
        return size - part, self._newline + data

    def _rotate(self) -> bool:
        """Rename the file, and the older ones before it; or have it grow if that cannot be.

        Returns:
            Whether the file is no longer at the path.  If it still is, another program keeps the lock of
            the directory, the system refuses to rename it, or the rotator has left it there.
        """
        try:
            could_lock = self._rename_all(self._patience)
            self._patience = _PATIENCE if could_lock else 0
            return could_lock and not is_at_path(self._path, self._fd)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                reason = error.strerror or str(error)
                threads.progress.deferred.append(partial(_warn_of_growth, self._path, reason))
            return False

    def _rename_all(self, patience: float) -> bool:
        """Rename the files from the first gap down, under the lock of their directory.

        If the process is killed between two steps it leaves a gap, which the next rotation fills.  The
        lock of the file is not enough: if another program has renamed that, two processes may have
        the locks of two files, and both begin to rotate.

        Args:
            patience: How many seconds to wait for the lock of the directory.

        Returns:
            Whether it could be had.
        """
        with locked_directory(self._path, patience) as locked:
            if locked and is_at_path(self._path, self._fd):
                number = 1
                while number < self._backup_count and os.path.lexists(self._backup(number)):
                    number += 1
                for target in range(number, 1, -1):
                    with suppress(FileNotFoundError):  # another program has removed it
                        replace(self._backup(target - 1), self._backup(target))
                self._rename_to(self._backup(1))
                create_like(self._fd, self._path)
            return locked

    def _backup(self, number: int) -> str:
        name = f"{self._path}.{number}"
        return self._namer(name) if self._namer else name

    def _rename_to(self, name: str) -> None:
        """Make the log the first of the older files."""
        if self._rotator:
            with suppress(FileNotFoundError):
                remove(name)
            with set_apart(self._path) as source:
                self._rotator(source, name)
            return
        with suppress(FileNotFoundError):
            replace(self._path, name)
        if is_at_path(self._path, self._fd):  # both are names of one file: rename(2) does nothing then
            os.unlink(self._path)

    def _truncate_partial(self, size: int, length: int) -> None:
        """Remove what was written of a record of *length* bytes that begins at *size*, unless it is whole."""
        self._size = -1
        if threads.progress.depth > 1:  # a signal handler has written a record, which may be there instead
            return
        with suppress(OSError):
            if size < os.fstat(self._fd).st_size < size + length:
                truncate(self._fd, size)


def _warn_of_growth(path: str, reason: str) -> None:
    warnings.warn(
        f"{path} is larger than max_bytes and grows on, since it cannot be renamed: {reason}",
        RuntimeWarning,
        stacklevel=7,  # the line that has called write()
    )


def _no_lock(fd: int, operation: int) -> None:
    pass
