"""A log file as one process has it open: whole records at its end, whoever else writes or renames it."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from os import stat, write
from typing import NamedTuple

from ._filelock import LOCK_EX, LOCK_NB, LOCK_UN, OPEN_FLAGS, directory_of, flock, pread, sync

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
        guarded: Whether the user's lock is held meanwhile: the file system needs none then.
    """

    newline: bytes
    ending: bytes
    max_bytes: int
    backup_count: int
    fsync: bool
    guarded: bool


class LogFile:
    """The file at *path*, created if there is none.

    ``flock`` belongs to the open file description, which the threads of a process share: they
    take the mutex first, again if a signal handler writes in the middle of a write.  A forked
    child shares the description too, and must make a LogFile of its own.

    If a process is killed anywhere in here, the kernel frees its lock.  The next one finds a record
    cut short, or a rotation half done, and goes on from there.
    """

    __slots__ = (
        "_backup_count",
        "_busy",
        "_device",
        "_encoded_path",
        "_ending",
        "_fd",
        "_flock",
        "_fsync",
        "_inode",
        "_limit",
        "_mutex",
        "_newline",
        "_others_fd",
        "_path",
        "_size",
        "_width",
    )

    def __init__(self, path: str, options: FileOptions) -> None:
        self._path = path
        self._encoded_path = os.fsencode(path)  # which stat would do each time
        self._newline = options.newline
        self._ending = options.ending
        self._width = len(options.ending)
        self._backup_count = options.backup_count
        self._limit = options.max_bytes or sys.maxsize
        self._fsync = options.fsync
        self._fd = self._open()
        self._others_fd = -1
        self._know()
        self._size = -1  # after the last record of this process
        self._mutex = threading.RLock()
        self._busy = False
        self._flock: Callable[[int, int], None] = flock
        self._check_locks(options.guarded)

    def append_in_turn(self, data: bytes) -> None:
        """Do what ``append`` does, in a process that has other threads."""
        with self._mutex:
            self.append(data)

    def append(self, data: bytes) -> None:
        """Write one record, whole, at the end of what is the file now."""
        nested, self._busy = self._busy, True  # a signal handler must leave the lock to the outer write
        fd = self._fd
        try:
            self._flock(fd, LOCK_EX)
            try:
                status = stat(self._encoded_path)
            except FileNotFoundError:
                status = _NO_FILE
            size = status.st_size
            length = len(data)
            if status.st_ino != self._inode or status.st_dev != self._device or size + length > self._limit:
                size = self._prepare(length)
            if size != self._size:  # somebody else has written
                self._size = size
                width = self._width
                if size and pread(fd, width, size - width if size > width else 0) != self._ending:
                    data = self._mend() + data
                    length = len(data)
            try:
                written = write(fd, data)
                while written != length:  # a full disk takes a part, and refuses the rest
                    written += write(fd, data[written:])
            except BaseException:
                self._take_back(length)
                raise
            self._size += length
        finally:
            if not nested:
                self._busy = False
                self._flock(fd, LOCK_UN)
        if self._fsync:
            sync(fd)

    def fileno(self) -> int:
        """Return a descriptor for others to write to.

        Not the one that has the lock: a child process that got it would have a part in the lock,
        and keep it when this process is killed.
        """
        with self._mutex:
            if self._others_fd < 0:
                self._others_fd = self._open()
            elif not self._is_at_path(self._others_fd):
                self._reopen(self._others_fd)
            return self._others_fd

    def close(self) -> None:
        """Close the file; a later ``append`` raises ValueError."""
        with self._mutex:  # a descriptor that is closed during a write is soon another file's
            self.abandon()

    def abandon(self) -> None:
        """Close the file without the mutex: after a fork, which no other thread has outlived."""
        descriptors = self._fd, self._others_fd
        self._fd = self._others_fd = -1
        for fd in descriptors:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | OPEN_FLAGS, 0o666)
        if self._fsync:
            with directory_of(self._path) as directory:
                os.fsync(directory)
        return fd

    def _reopen(self, fd: int) -> None:
        """Have *fd* stand for the file that is at the path now."""
        if self._fsync:
            sync(fd)
        new = self._open()
        try:
            os.dup2(new, fd, inheritable=False)
        finally:
            os.close(new)

    def _know(self) -> None:
        status = os.fstat(self._fd)
        self._inode, self._device = status.st_ino, status.st_dev

    def _check_locks(self, guarded: bool) -> None:  # noqa: FBT001 - one of the options
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:  # somebody has it
            return
        except OSError as error:
            if error.errno in _NO_LOCKS and guarded:
                self._flock = _no_lock
                return
            self.abandon()
            if error.errno in _NO_LOCKS:
                reason = f"{error.strerror}: the file system has no locks; pass a lock that all writers share"
                raise OSError(error.errno, reason, self._path) from None
            raise
        flock(self._fd, LOCK_UN)

    def _prepare(self, length: int) -> int:
        """Make sure that this is the file at the path, and that *length* bytes fit; return its size."""
        while True:
            if not self._is_at_path(self._fd):
                self._flock(self._fd, LOCK_UN)  # a child that is just being forked may keep the file open
                self._reopen(self._fd)
                self._know()
                self._flock(self._fd, LOCK_EX)
                continue
            size = os.fstat(self._fd).st_size
            if not size or size + length <= self._limit:
                return size
            self._rotate()

    def _mend(self) -> bytes:
        """Return what ends the record at the end of the file, which was cut short."""
        part = self._size % self._width  # of a character of several bytes
        if part:
            self._size -= part
            os.ftruncate(self._fd, self._size)
        return self._newline

    def _is_at_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(stat(self._path), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        """Rename the file, and the older ones before it, from the first gap down.

        If the process is killed between two steps there is a gap, which is filled by the next.
        Another program may have renamed the file, and others have filled a new one: the lock that
        keeps them from rotating too is that of the directory.
        """
        names = [self._path, *(f"{self._path}.{number}" for number in range(1, self._backup_count + 1))]
        with directory_of(self._path) as directory:
            with suppress(OSError):  # NFS has no lock for a directory
                self._flock(directory, LOCK_EX)
            if not self._is_at_path(self._fd):
                return
            gaps = (number for number, name in enumerate(names) if not os.path.lexists(name))
            for number in range(next(gaps, self._backup_count), 0, -1):
                with suppress(FileNotFoundError):  # somebody else has removed it
                    os.replace(names[number - 1], names[number])

    def _take_back(self, length: int) -> None:
        """Remove what there is of a record of *length* bytes, if it is not all there."""
        with suppress(OSError):
            if self._size < os.fstat(self._fd).st_size < self._size + length:
                os.ftruncate(self._fd, self._size)


def _no_lock(fd: int, operation: int) -> None:
    pass
