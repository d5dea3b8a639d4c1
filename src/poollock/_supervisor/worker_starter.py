"""Starts the workers of a pool, and those that replace them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from poollock._backend.fork import no_program_starting
from poollock._backend.process import exit_code
from poollock._backend.signals import block_signals
from poollock._worker.main import InitArgs, StartupData, run_worker
from poollock._worker.object_pickling import ObjectPickler

from .worker_handle import WorkerHandle, WorkerState

if TYPE_CHECKING:
    from poollock._trace.row import Row
    from poollock._trace.trace_file import TraceFile

_PAUSE = 0.1  # seconds before another start, for each worker in a row that failed to start
_LONGEST_PAUSE = 1.0  # seconds
_LOCK_TIMEOUT = 2.0  # seconds


class WorkerStarter:
    """Starts the workers, and those that replace them.

    Args:
        ctx: The context that starts them.
        make_process: What makes a process: ``Process`` of the pool.
        size: How many workers there should be.
        maxtasks: How many tasks each of them runs; None is no limit.
        make_init_args: Called for what each worker puts in place first.
        pickler: Pickles for the workers.
        trace: Where it is written what each of them does, if that is wanted.
    """

    def __init__(
        self,
        ctx: BaseContext,
        make_process: Callable[..., Any],
        size: int,
        maxtasks: int | None,
        make_init_args: Callable[[], InitArgs],
        *,
        pickler: ObjectPickler,
        trace: TraceFile | None = None,
    ) -> None:
        self.processes: list[Any] = []
        self.failures = 0  # workers in a row that ended before they were ready
        self._ctx = ctx
        self._make_process = make_process
        self._maxtasks = maxtasks
        self._make_init_args = make_init_args
        self._pickler = pickler
        rows = [None] * size if trace is None else _make_rows(trace, size)
        self._free_states = [WorkerState(ctx, row) for row in reversed(rows)]
        self._paused = False
        self._starting = threading.Lock()
        # multiprocessing asks every child for its exit code when it starts one.  Of two threads that
        # ask a child of the fork server, one is told 255.
        self._asking = threading.Lock()
        self._requested = threading.Event()
        self._stopping = threading.Event()

    def start_missing(self) -> tuple[list[WorkerHandle], BaseException | None]:
        """Start the workers that are missing; return them, and why there are not more."""
        started: list[WorkerHandle] = []
        with self._starting:
            # All are made before the first start: memory that is written to after a fork is copied first.
            made, error = self._make_all()
            try:
                with no_program_starting(self._ctx):
                    for worker in made:
                        if self.stopped:
                            break
                        with self._asking:
                            worker.start()
                        self.processes.append(worker.process)
                        started.append(worker)
            except BaseException as reason:  # noqa: BLE001 - for the caller, to raise or to report
                return started, reason
            finally:
                for worker in made[len(started) :]:
                    worker.close()
                    worker.worker_socket.sock.close()
                    self._free_states.append(worker.state)
            try:
                return started, error
            finally:
                del error  # its traceback leads to this frame, which would lead to it

    def _make_all(self) -> tuple[list[WorkerHandle], BaseException | None]:
        made: list[WorkerHandle] = []
        try:
            while self._free_states and not (self._paused or self.stopped):
                made.append(self._make(self._free_states.pop()))
        except BaseException as error:  # noqa: BLE001 - no descriptor is left, say: the others are of use
            return made, error
        return made, None

    def _make(self, state: WorkerState) -> WorkerHandle:
        try:
            worker = WorkerHandle(state, self._maxtasks)
            trace_words = state.row.reader.words if state.row is not None else None
            worker.startup_data = StartupData(
                (state.words, state.lock, self._make_init_args(), trace_words), self._pickler
            )
            worker.process = self._make_process(
                self._ctx,
                target=run_worker,
                args=(worker.worker_socket, worker.maxtasks, worker.startup_data),
            )
        except BaseException:
            self._free_states.append(state)
            raise
        worker.process.name = worker.process.name.replace("Process", "PoolWorker")
        worker.process.daemon = True
        return worker

    def reap(self, worker: WorkerHandle) -> int | None:
        """Return the exit code of a worker that has ended, if that is known."""
        # With a time limit: a start may be kept waiting, by a fork server that was stopped.
        locked = self._asking.acquire(timeout=_LOCK_TIMEOUT)
        try:
            return exit_code(worker.process)
        finally:
            if locked:
                self._asking.release()

    def remove(self, worker: WorkerHandle) -> None:
        """Forget a worker that has ended."""
        worker.state.reset()
        self._free_states.append(worker.state)
        self.processes.remove(worker.process)

    def request_start(self) -> None:
        """Have the thread of ``run`` start what is missing."""
        self._requested.set()

    def pause(self) -> None:
        """Start no worker before ``resume``."""
        self._paused = True

    def resume(self) -> None:
        """Start what is missing again."""
        self._paused = False
        self.request_start()

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
        self._requested.set()

    def run(self, add: Callable[[WorkerHandle], None], fail: Callable[[BaseException], None]) -> None:
        """Be the thread that starts replacements, until ``stop``.

        Args:
            add: Called with each worker that was started.
            fail: Called with the error if one could not be started.
        """
        block_signals(self._ctx)  # the workers inherit that
        while not self.stopped:
            self._requested.wait()
            self._requested.clear()
            self._stopping.wait(min(self.failures * _PAUSE, _LONGEST_PAUSE))
            self._start_and_report(add, fail)

    def _start_and_report(
        self, add: Callable[[WorkerHandle], None], fail: Callable[[BaseException], None]
    ) -> None:
        # Not in `run`, whose frame would keep the last worker, and its tasks, in memory until the next one.
        started, error = self.start_missing()
        for worker in started:
            add(worker)
        try:
            if error is not None:
                fail(error)
        finally:
            del error  # as in start_missing


def _make_rows(trace: TraceFile, size: int) -> list[Row]:
    from poollock._trace.records import words_for  # noqa: PLC0415 - few programs want it
    from poollock._trace.row import Row  # noqa: PLC0415 - the same

    trace.rows = [Row(trace, number, words) for number, words in enumerate(words_for(size), 1)]
    return trace.rows
