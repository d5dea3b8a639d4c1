"""How spawn and forkserver start a worker: as in multiprocessing, without two faults of it; POSIX only."""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from multiprocessing import connection, popen_forkserver, popen_spawn_posix
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.forkserver import SIGNED_STRUCT
from operator import methodcaller
from typing import Any, cast

from .process import ProcessStartError


class SpawnPopen(popen_spawn_posix.Popen):
    """What is written to a process that has ended is an error: gh-118981.

    Before CPython 3.13.8 (3.14.0), the standard class has the other end of the pipe open itself
    while it writes: it waits for ever if that is more than a pipe holds, as ``sys.argv`` may be.
    """

    _fds: list[int]

    if sys.version_info < (3, 13, 8):

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)
            if (
                name == "sentinel"
            ):  # set after the start, before the writing; the other end is closed after that
                process_reads, _process_writes = self._fds[-2:]
                os.dup2(value, process_reads, inheritable=False)

    def _launch(self, process: Any) -> None:
        standard: Any = super()
        self.pid = 0
        try:
            standard._launch(process)
        except BaseException as error:
            self.close()
            code = _end(self.pid) if self.pid else None
            if self.pid and isinstance(error, BrokenPipeError):
                raise ProcessStartError(code) from error
            raise


class ForkServerPopen(popen_forkserver.Popen):
    """Several threads may ask for the exit code, which can be read once.

    In the standard class, of two that ask at once, one is told 255.
    """

    def __init__(self, process: Any) -> None:
        super().__init__(process)
        self._pid = os.getpid()
        lock = threading.Lock()
        self._read: list[Any] = []
        # A read that a signal interrupts leaves the lock taken.
        self._reading = (
            partial(lock.acquire, timeout=1),
            partial(os.read, self.sentinel, SIGNED_STRUCT.size),
            lock.release,
        )

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if os.getpid() != self._pid:  # it is the parent's to read
            return self.returncode
        if self.returncode is None and connection.wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            self._read.extend(map(methodcaller("__call__"), self._reading))  # in one step
            codes = [code for code in self._read if isinstance(code, bytes) and code]
            # If there is none, the fork server is no more.
            self.returncode = SIGNED_STRUCT.unpack(codes[0])[0] if codes else 255
        return self.returncode


def prepare(process: Any) -> None:
    """Have *process* started by one of these classes, unless its context has one of its own."""
    for kind, popen in ((SpawnProcess, SpawnPopen), (ForkServerProcess, ForkServerPopen)):
        own, standard = cast("tuple[Any, Any]", (type(process), kind))
        if own._Popen is standard._Popen:
            process._Popen = partial(_start, popen)


def _start(popen: Any, process: Any) -> Any:
    del process._Popen  # it would travel with the process
    return popen(process)


def _end(pid: int) -> int | None:
    """End a process that nobody else knows; return its exit code, if it had ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except (ProcessLookupError, ChildProcessError):  # the program ignores SIGCHLD
        return None
