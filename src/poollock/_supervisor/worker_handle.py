"""A worker as the pool's process knows it."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from collections import deque
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from poollock._backend.process import (
    ProcessStartError,
    failed_start_exit_code,
    fork_server_exit_code,
    is_gone,
)
from poollock._backend.signals import ctrl_c_ignored_by_children
from poollock._backend.sockets import socket_pair
from poollock._locks.shared_words import shared_words
from poollock._worker.framing import FrameReader, header
from poollock._worker.main import StartupData
from poollock._worker.worker_socket import WORDS, WorkerSocket

from .task import Task

if TYPE_CHECKING:
    from poollock._trace.row import Row

_workers: weakref.WeakSet[WorkerHandle] = weakref.WeakSet()


class WorkerState:
    """The memory that a worker shares with the pool; the worker that replaces it has it next."""

    def __init__(self, ctx: BaseContext, row: Row | None = None) -> None:
        self.words = shared_words(WORDS)
        self.lock: Any = ctx.Lock()
        self.row = row  # of the trace

    def reset(self) -> None:
        """Make it as new, after the death of its worker, which may have held the lock."""
        if self.lock._semlock._is_zero():
            self.lock._semlock.release()
        for word in range(WORDS):
            self.words.view[word] = 0


class WorkerHandle:
    """What the pool knows of one worker.

    Args:
        state: The memory that it shares with the worker.
        maxtasks: How many tasks the worker runs; None is no limit.
    """

    def __init__(self, state: WorkerState, maxtasks: int | None) -> None:
        self.state = state
        self.maxtasks = maxtasks or sys.maxsize
        self.sock, worker_sock = socket_pair()
        _workers.add(self)
        self.sock.settimeout(0)
        self.worker_socket = WorkerSocket(worker_sock)
        self.reader = FrameReader(self.sock)
        self.process: Any = None
        self.startup_data = StartupData()
        self.sentinel = -1  # a descriptor that is readable once the worker has ended, and not before
        self.has_main_module = False  # it is forked, or has imported the main module
        self.ready = False  # its initializer has returned
        self.kill_reason = ""  # why the pool itself ended it
        self.timed_out = False  # because its task took too long
        self.is_given_up = False  # whoever waited for its task has an error already
        self.in_flight: deque[Task] = deque()  # the tasks that it was sent, in order; it runs the first
        self.send_buffer: deque[memoryview] = deque()  # what its socket did not take yet
        self.number = 0  # of the task that was sent last
        self.done = 0  # tasks
        self.last_begun = 0  # the number of the task that it ran at the last check
        self.prefetch = 1  # how many tasks it should have at once

    @property
    def pid(self) -> int:
        """The worker's process id."""
        pid: int = self.process.pid
        return pid

    @property
    def first_task(self) -> Task | None:
        """The task that it runs, or will run next; any thread may ask."""
        with suppress(IndexError):
            return self.in_flight[0]
        return None

    def start(self) -> None:
        """Start the worker; its own end of the socket pair is then open in it alone.

        Raises:
            ProcessStartError: It has ended meanwhile.
        """
        try:
            with ctrl_c_ignored_by_children():
                self.process.start()
        except (ConnectionError, EOFError) as error:
            if not self.startup_data.payload:  # the error comes from pickling that
                raise
            by_fork_server = getattr(self.process, "_start_method", None) == "forkserver"
            code = fork_server_exit_code() if by_fork_server else failed_start_exit_code(error)
            raise ProcessStartError(code) from error
        self.worker_socket.sock.close()
        payload = self.startup_data.payload
        self.has_main_module = not payload
        if payload:
            self.send_buffer.extend(map(memoryview, (header(payload, 0), payload)))
        self.startup_data = StartupData()

    def watch(self) -> None:
        """Get the descriptor that tells of the worker's end.

        The sentinel of multiprocessing is a pipe.  Under fork and spawn its other end is open in whatever
        the worker has forked, too: a descriptor of the process itself takes its place, if the system
        has one.  Under forkserver it is open in the fork server alone, which writes the exit code.
        """
        if self._has_fork_server or self._open_pidfd(self.process.sentinel):
            self.sentinel = self.process.sentinel

    def is_alive_after_all(self) -> bool:
        """Return whether the sentinel told of the end of the fork server; then watch the worker itself."""
        if not self._has_fork_server or is_gone(self.pid):
            return False
        self.sentinel = self.process.sentinel if self._open_pidfd(self.process.sentinel) else -1
        return True

    @property
    def _has_fork_server(self) -> bool:
        return getattr(self.process._popen, "method", None) == "forkserver"

    def _open_pidfd(self, number: int) -> bool:
        """Open a descriptor of the worker's process under *number*; return False if there is none."""
        if not hasattr(os, "pidfd_open"):
            return False
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:  # not allowed here, no descriptor left, or the worker is no more
            return False
        os.dup2(pidfd, number, inheritable=False)
        os.close(pidfd)
        return True

    def kill(self, reason: str) -> None:
        """Send the worker SIGKILL; *reason* is what the error of its task says."""
        self.kill_reason = reason
        self.process.kill()

    def terminate(self, reason: str) -> None:
        """Send the worker SIGTERM; *reason* is what the error of its task says."""
        self.kill_reason = reason
        self.process.terminate()

    def close(self) -> None:
        """Close what the pool's process has open for the worker; its process object keeps its sentinel."""
        self.sock.close()

    def close_input(self) -> None:
        """Tell the worker that no more task will come, unless something is still on its way."""
        if not self.send_buffer:
            with suppress(OSError):  # it has ended
                self.sock.shutdown(socket.SHUT_WR)

    def capacity(self, limit: int) -> int:
        """Return how many more tasks may be sent, if the worker is to have *limit*."""
        if not self.ready or self.send_buffer or self.kill_reason:
            return 0
        return min(limit, self.maxtasks - self.done) - len(self.in_flight)


def _close_after_fork() -> None:
    """Close the ends that only the pool's process may have open.

    A worker learns from the end of its socket that the pool has ended; it would not if
    processes that were forked later, workers of other pools say, held the same end open.
    """
    for worker in list(_workers):
        worker.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
