"""The workers as the pool's process knows them, and their starting."""

from __future__ import annotations

import os
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import Any

from poollock._backend.process import EndedEarlyError
from poollock._backend.sigint import hold_interrupts
from poollock._locks.shared_words import shared_words
from poollock._worker.framing import FrameReader, header
from poollock._worker.main import WORDS, Luggage, Setup, WorkerEnd, run_worker
from .dispatcher import Task

_SENDING = ("spawn", "forkserver")  # start methods by which the parent sends what it starts with
_PAUSE = 0.1  # seconds before another start, for each that failed before
_LONGEST_PAUSE = 1.0  # seconds

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


class Slot:
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


class Worker:
    """What the pool knows of one worker."""

    def __init__(self, slot: Slot, maxtasks: int | None) -> None:
        self.slot = slot
        self.maxtasks = maxtasks or sys.maxsize
        self.death = -1  # a descriptor that is readable once the worker has ended
        self.sock, worker_sock = socket.socketpair()
        _workers.add(self)
        self.sock.settimeout(0)
        self.end = WorkerEnd(worker_sock)
        self.reader = FrameReader(self.sock)
        self.process: Any = None
        self.luggage = Luggage()
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
            EndedEarlyError: It has ended meanwhile.
        """
        if sys.platform != "win32" and getattr(self.process, "_start_method", None) in _SENDING:
            from poollock._backend.popen import prepare  # noqa: PLC0415 - a pool that forks starts sooner without it

            prepare(self.process)
        try:
            self.process.start()
        except (ConnectionError, EOFError) as error:
            if not self.luggage.payload:  # it comes from the pickling of that
                raise
            raise EndedEarlyError(None) from error
        self.end.sock.close()
        payload = self.luggage.payload
        if payload:
            self.outgoing.extend(map(memoryview, (header(payload, 0), payload)))
        self.luggage = Luggage()

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


class Crew:
    """Starts the workers, and those that replace them.

    Args:
        ctx: The context that starts them.
        make_process: What makes a process: ``Process`` of the pool.
        size: How many workers there should be.
        maxtasks: How many tasks each of them runs.
        setup: Called for what each puts in place first.
    """

    def __init__(
        self,
        ctx: BaseContext,
        make_process: Callable[..., Any],
        size: int,
        maxtasks: int | None,
        setup: Callable[[], Setup],
    ) -> None:
        self.processes: list[Any] = []
        self.failures = 0  # workers in a row that ended before they were ready
        self._ctx = ctx
        self._make_process = make_process
        self._maxtasks = maxtasks
        self._setup = setup
        self._slots = [Slot(ctx) for _ in range(size)]
        self._paused = False
        self._starting = threading.Lock()
        self._wanted = threading.Event()
        self._stopping = threading.Event()

    def fill(self) -> tuple[list[Worker], BaseException | None]:
        """Start the workers that are missing; return them, and why there are not more."""
        started: list[Worker] = []
        with self._starting:
            # All before the first start: what is written to after a fork is copied first.
            made, error = self._make_all()
            try:
                for worker in made:
                    if self.stopped:
                        break
                    worker.start()
                    self.processes.append(worker.process)
                    started.append(worker)
            except BaseException as why:  # noqa: BLE001 - for the caller to raise or to tell
                return started, why
            finally:
                for worker in made[len(started) :]:
                    worker.close()
                    worker.end.sock.close()
                    self._slots.append(worker.slot)
        return started, error

    def _make_all(self) -> tuple[list[Worker], BaseException | None]:
        made: list[Worker] = []
        try:
            while self._slots and not (self._paused or self.stopped):
                made.append(self._make(self._slots.pop()))
        except BaseException as error:  # noqa: BLE001 - no descriptor is left, say: the others are of use
            return made, error
        return made, None

    def _make(self, slot: Slot) -> Worker:
        try:
            worker = Worker(slot, self._maxtasks)
            worker.luggage = Luggage((slot.words, slot.claims, self._setup()))
            worker.process = self._make_process(
                self._ctx, target=run_worker, args=(worker.end, worker.maxtasks, worker.luggage)
            )
        except BaseException:
            self._slots.append(slot)
            raise
        worker.process.name = worker.process.name.replace("Process", "PoolWorker")
        worker.process.daemon = True
        return worker

    def remove(self, worker: Worker) -> None:
        """Forget a worker that has ended."""
        worker.slot.clear()
        self._slots.append(worker.slot)
        self.processes.remove(worker.process)

    def ask(self) -> None:
        """Let the thread of ``keep`` start what is missing."""
        self._wanted.set()

    def pause(self) -> None:
        """Start no worker before ``resume``."""
        self._paused = True

    def resume(self) -> None:
        """Start what is missing again."""
        self._paused = False
        self.ask()

    def is_empty(self) -> bool:
        """Return whether there is no worker, nor one that is just being started."""
        if not self._starting.acquire(blocking=False):
            return False
        self._starting.release()
        return not self.processes

    @property
    def stopped(self) -> bool:
        """Whether no more workers are started."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Start no more workers."""
        self._stopping.set()
        self._wanted.set()

    def keep(self, add: Callable[[Worker], None], failed: Callable[[BaseException], None]) -> None:
        """Be the thread that starts replacements, until ``stop``.

        Args:
            add: Called with each worker that was started.
            failed: Called when one could not be.
        """
        hold_interrupts()  # its workers inherit that
        while not self.stopped:
            self._wanted.wait()
            self._wanted.clear()
            self._stopping.wait(min(self.failures * _PAUSE, _LONGEST_PAUSE))
            started, error = self.fill()
            for worker in started:
                add(worker)
            if error is not None:
                failed(error)


def _close_parents_ends() -> None:
    """Close the ends that only the pool's process may have open.

    A worker learns from the end of its pipe that the pool has ended; it would not if
    processes that were forked later, workers of other pools say, held the same end open.
    """
    for worker in list(_workers):
        worker.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_parents_ends)
