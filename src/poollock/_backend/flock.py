"""The locks of files, directories and consoles, which the system frees when their process ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from .files import closing_fd

# What flock() with LOCK_NB raises if another process has the lock; PermissionError on Linux's cifs.
WOULD_BLOCK = (BlockingIOError, PermissionError)

if sys.platform == "win32":
    from errno import EAGAIN
    from hashlib import sha256
    from multiprocessing import current_process

    from .windows import NamedMutex, has_file_locks, lock_file, named_mutex, unlock_file

    LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8
    _console_mutexes: list[NamedMutex] = []  # one, once it is needed

    def flock(fd: int, operation: int) -> None:
        """Take or give back the lock on the file that *fd* has open."""
        if operation == LOCK_UN:
            unlock_file(fd)
        else:
            lock_file(fd, wait=not operation & LOCK_NB)

    def lockf(fd: int, operation: int) -> None:
        """Take or give back the lock on the file, the console or the pipe that *fd* has open.

        Consoles and pipes have none: a mutex of the program stands for all of them.
        """
        if has_file_locks(fd):
            flock(fd, operation)
        elif operation == LOCK_UN:
            _console_mutex().release()
        elif not _console_mutex().acquire(0 if operation & LOCK_NB else None):
            raise BlockingIOError(EAGAIN, "another process has the console's mutex")

    def _console_mutex() -> NamedMutex:
        if not _console_mutexes:
            # The processes that multiprocessing starts for a program have its key, and no others.
            key = sha256(b"poollock's console: " + current_process().authkey).hexdigest()
            _console_mutexes.append(NamedMutex(rf"Local\poollock-{key}"))
        return _console_mutexes[0]

    @contextmanager
    def locked_directory(path: str, patience: float) -> Generator[bool, None, None]:
        """Hold the lock of the directory of *path*; yield whether it could be had within *patience* seconds.

        Directories have none: it is a mutex, whose name has the directory's number.
        """
        status = os.stat(os.path.dirname(path))
        with named_mutex(rf"Global\poollock-{status.st_dev}-{status.st_ino}", patience) as locked:
            yield locked
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock, lockf

    _PAUSE = 0.001  # seconds

    @contextmanager
    def locked_directory(path: str, patience: float) -> Generator[bool, None, None]:
        """Hold the lock of the directory of *path*; yield whether it could be had within *patience* seconds.

        If the directory cannot be opened or has no lock, as on NFS, that counts as had.  Another program
        may keep the lock for long, such as a shell's ``flock DIRECTORY PROGRAM``.
        """
        try:
            fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            yield True
            return
        pid = os.getpid()
        with closing_fd(fd):
            try:
                yield _try_lock(fd, patience)
            finally:
                # To close it would not do: a process that was forked meanwhile has the descriptor, too.
                if os.getpid() == pid:
                    with suppress(OSError):  # there are no such locks here
                        flock(fd, LOCK_UN)

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


__all__ = ["LOCK_EX", "LOCK_NB", "LOCK_UN", "WOULD_BLOCK", "flock", "locked_directory", "lockf"]
