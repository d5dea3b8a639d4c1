"""How spawn and forkserver start a worker: as in multiprocessing, without two faults of it; POSIX only."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from multiprocessing import popen_forkserver, popen_spawn_posix
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from typing import Any, cast


class SpawnPopen(popen_spawn_posix.Popen):
    """What is written to a process that has ended is an error.

    The standard class has the other end of the pipe open itself while it writes, so that it
    waits for ever if that is more than a pipe holds: ``sys.argv`` and ``sys.path`` are written.
    """

    _fds: list[int]
    _sentinel: int

    @property
    def sentinel(self) -> int:
        """A descriptor; the standard class sets it between the start and the writing."""
        return self._sentinel

    @sentinel.setter
    def sentinel(self, sentinel: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._sentinel = sentinel
        process_reads, _process_writes = self._fds[-2:]
        os.dup2(sentinel, process_reads, inheritable=False)  # the standard class will close it

    def _launch(self, process: Any) -> None:
        standard: Any = super()
        self.pid = 0
        try:
            standard._launch(process)
        except BaseException:
            self.close()
            if self.pid:  # nobody else knows it
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
            raise


class ForkServerPopen(popen_forkserver.Popen):
    """One thread at a time reads the exit code, which can be read once.

    In the standard class, of two that ask at once, one is told 255.
    """

    def __init__(self, process: Any) -> None:
        self._reading = threading.Lock()
        super().__init__(process)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if flag != os.WNOHANG and self.returncode is None:
            wait([self.sentinel])
        if self._reading.acquire(blocking=False):
            try:
                super().poll()
            finally:
                self._reading.release()
        return self.returncode


def prepare(process: Any) -> None:
    """Have *process* started by one of these classes, unless its context has one of its own."""
    for kind, popen in ((SpawnProcess, SpawnPopen), (ForkServerProcess, ForkServerPopen)):
        own, standard = cast("tuple[Any, Any]", (type(process), kind))
        if own._Popen is standard._Popen:
            process._Popen = popen
