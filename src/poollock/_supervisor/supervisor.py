"""The threads of a pool: made, started, and ended together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any

from poollock._backend.process import ProcessStartError, check_descriptors
from poollock._backend.signals import WAIT_SLICE, signals_blocked
from poollock._errors import LockWait
from poollock._locks.base import BaseLock
from poollock._worker.main import InitArgs
from poollock._worker.main_module import ImportedMainModule, InheritedMainModule
from poollock._worker.object_pickling import ObjectPickler
from poollock._worker.task_pickling import CALL

from .event_loop import EventLoop
from .jobs import Job
from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter

if TYPE_CHECKING:
    from poollock._trace.trace_file import TraceFile

_DESCRIPTORS = 3  # that the pool's process has open for each worker: a socket, and two of multiprocessing
# What a start has open beside these in passing.  The fork server ends if a start fails halfway.
_SPARE_DESCRIPTORS = 6
_SPARE_DESCRIPTORS_OF_FORK = 3


class Supervisor:
    """Starts the workers of a pool, has its jobs run, and ends all of it.

    Args:
        ctx: The context that starts the workers.
        make_process: What makes a process: ``Process`` of the pool.
        size: How many workers there should be.
        maxtasks: How many tasks each of them runs; None is no limit.
        make_init_args: Called for what each worker puts in place first.
        locks: The pool's own locks.
        task_timeout: Seconds that a task may run; None is no limit.
        trace: Where it is written what the workers do, if that is wanted.

    Attributes:
        processes: The processes of the workers.
    """

    def __init__(
        self,
        ctx: BaseContext,
        make_process: Callable[..., Any],
        size: int,
        *,
        maxtasks: int | None,
        make_init_args: Callable[[], InitArgs],
        locks: Iterable[BaseLock],
        task_timeout: float | None = None,
        trace: TraceFile | None = None,
    ) -> None:
        is_fork = ctx.get_start_method() == "fork"
        pickler = ObjectPickler(InheritedMainModule() if is_fork else ImportedMainModule())
        self._starter = starter = WorkerStarter(
            ctx, make_process, size, maxtasks, make_init_args, pickler=pickler, trace=trace
        )
        self.processes = starter.processes
        self._event_loop = event_loop = EventLoop(
            starter, size, locks, pickler, task_timeout=task_timeout, trace=trace
        )
        self.pending = event_loop.pending
        workers: list[WorkerHandle] = []
        try:
            _check_descriptors(size, ctx.get_start_method())
            with signals_blocked(ctx):
                workers, error = starter.start_missing()
            try:
                if isinstance(error, ProcessStartError):
                    event_loop.start_failed(error)
                elif error is not None:
                    raise error
            finally:
                del error  # its traceback leads to this frame, which would lead to it
            for worker in workers:
                event_loop.add(worker)
            starter_thread = _make_thread(event_loop.run_starter, "workers")
            self._task_handler = _make_thread(event_loop.task_handler.run, "tasks")
            self._results = _make_thread(event_loop.run, "results", starter_thread)
            self._task_handler.start()
            self._results.start()
        except BaseException:  # not enough memory, say, for all the processes or threads
            starter.stop()
            event_loop.task_handler.stop()
            _end_workers(workers)
            event_loop.close_after_fork()
            raise
        self._threads = {starter_thread, self._task_handler, self._results}

    @property
    def belongs_to_this_process(self) -> bool:
        """Whether its threads are, or were, in this process: none outlives a fork."""
        return self._results.is_alive() or self._event_loop.over

    @property
    def in_callback(self) -> bool:
        """Whether the running thread is one that calls a callback."""
        return self.pending.callbacks.is_current_thread

    def submit(self, job: Job, pool: object) -> None:
        """Have *job* run; until it is done, keep *pool* alive, whose end would end this."""
        self._event_loop.submit(job, pool)

    def submit_call(self, func: Callable[..., Any], args: tuple[Any, ...], kwds: Any, pool: object) -> Any:
        """Have one call run; return its ``concurrent.futures.Future``."""
        from .futures import FutureResult, PoolFuture  # noqa: PLC0415 - see there

        future = PoolFuture(self._event_loop)
        job = Job(CALL, func, [args], FutureResult(future), kwds=kwds)
        future.belongs_to(job)
        self.submit(job, pool)
        return future

    def request_start(self) -> None:
        """Start workers that are missing."""
        self._starter.request_start()

    def lock_waits(self) -> list[LockWait]:
        """Return the waits of tasks for locks that have lasted for a second."""
        return self._event_loop.deadlock_detector.waits()

    def close(self) -> None:
        """End once all jobs are done."""
        self._event_loop.close()

    def terminate(self) -> None:
        """End the workers at once, without waiting for that."""
        self._event_loop.terminate()

    def join(self) -> None:
        """Wait for the end, unless this is called by one of its own threads."""
        if current_thread() not in self._threads:
            while self._results.is_alive():
                self._results.join(WAIT_SLICE)


def _check_descriptors(size: int, method: str) -> None:
    spare = _SPARE_DESCRIPTORS_OF_FORK if method == "fork" else _SPARE_DESCRIPTORS
    try:
        check_descriptors(_DESCRIPTORS * size + spare)
    except OSError as error:
        text = f"{error.strerror}: {size} workers take {_DESCRIPTORS} each; see `ulimit -n`"
        raise OSError(error.errno, text) from error


def _make_thread(target: Callable[..., None], name: str, *args: Any) -> Thread:
    return Thread(target=target, name=f"poollock-{name}", args=args, daemon=True)


def _end_workers(workers: Iterable[WorkerHandle]) -> None:
    for worker in workers:
        worker.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
