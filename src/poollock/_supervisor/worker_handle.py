"""A worker as the pool's process knows it."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from collections import deque
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import Any

from poollock._backend.process import ProcessStartError
from poollock._locks.shared_words import shared_words
from poollock._worker.framing import FrameReader, header
from poollock._worker.main import WORDS, StartupData, WorkerEnd

from .task import Task

_SENDING = ("spawn", "forkserver")  # start methods by which the parent sends what it starts with

_workers: weakref.WeakSet[WorkerHandle] = weakref.WeakSet()


class WorkerState:
    """What a worker shares with the pool beside its pipe; the worker that replaces it has it next."""

    def __init__(self, ctx: BaseContext) -> None:
        self.words = shared_words(WORDS)
        self.claims: Any = ctx.Lock()

    def clear(self) -> None:
        """Make the slot as new, after the death of its worker, which may have had the claims."""
        if self.claims._semlock._is_zero():
            self.claims._semlock.release()
        for word in range(WORDS):
            self.words.view[word] = 0


class WorkerHandle:
    """What the pool knows of one worker."""

    def __init__(self, slot: WorkerState, maxtasks: int | None) -> None:
        self.slot = slot
        self.maxtasks = maxtasks or sys.maxsize
        self.death = -1  # a descriptor that is readable once the worker has ended
        self.sock, worker_sock = socket.socketpair()
        _workers.add(self)
        self.sock.settimeout(0)
        self.end = WorkerEnd(worker_sock)
        self.reader = FrameReader(self.sock)
        self.process: Any = None
        self.startup_data = StartupData()
        self.ready = False
        self.doomed = ""  # why the pool itself ends it
        self.running: deque[Task] = deque()  # what it has, in order; it runs the first
        self.outgoing: deque[memoryview] = deque()  # what did not fit into its pipe yet
        self.number = 0  # of the task that was sent last
        self.done = 0
        self.seen = 0  # the number that it ran when the pool looked last
        self.ahead = 1  # how many tasks it is to have at once

    def start(self) -> None:
        """Start the worker; its own end of the pipe is then open in it alone.

        Raises:
            ProcessStartError: It has ended meanwhile.
        """
        if sys.platform != "win32" and getattr(self.process, "_start_method", None) in _SENDING:
            from poollock._backend.popen import prepare  # noqa: PLC0415 - a pool that forks starts sooner without it

            prepare(self.process)
        try:
            self.process.start()
        except (ConnectionError, EOFError) as error:
            if not self.startup_data.payload:  # it comes from the pickling of that
                raise
            raise ProcessStartError(None) from error
        self.end.sock.close()
        payload = self.startup_data.payload
        if payload:
            self.outgoing.extend(map(memoryview, (header(payload, 0), payload)))
        self.startup_data = StartupData()

    def watch(self) -> None:
        """Get what tells of the worker's death.

        A descriptor of the process itself, where there is one: the standard sentinel is a pipe,
        and what the worker has forked, or the pool's process beside it, holds its other end too.
        Elsewhere it is the end of the worker's own pipe, which neither of them keeps open, and a look
        now and then: a process that is forked while the pipe is made or closed has a copy.
        """
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # not allowed here, no descriptor left, or the worker is no more
                self.death = os.pidfd_open(self.process.pid)

    def close(self) -> None:
        """Close what the pool's process has open for the worker."""
        self.sock.close()
        # Forgotten first: a child that is forked meanwhile must not close what has its number by then.
        death, self.death = self.death, -1
        if death >= 0:
            os.close(death)

    def leave(self) -> None:
        """Tell the worker that no more task will come, unless something is still on its way."""
        if not self.outgoing:
            with suppress(OSError):  # it has ended
                self.sock.shutdown(socket.SHUT_WR)

    def room(self, limit: int) -> int:
        """Return how many more tasks may be sent, if the worker is to have *limit*."""
        if not self.ready or self.outgoing or self.doomed:
            return 0
        return min(limit, self.maxtasks - self.done) - len(self.running)


def _close_parents_ends() -> None:
    """Close the ends that only the pool's process may have open.

    A worker learns from the end of its pipe that the pool has ended; it would not if
    processes that were forked later, workers of other pools say, held the same end open.
    """
    for worker in list(_workers):
        worker.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_parents_ends)
