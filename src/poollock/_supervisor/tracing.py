"""Tells the trace what happens to the workers and the tasks of a pool."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING

from poollock._backend.describe import describe_exit
from poollock._trace.records import CAPACITY
from poollock._trace.row import Row, TaskEnd
from poollock._trace.trace_file import TraceFile
from poollock._worker.worker_socket import BEGUN_AT

from .callbacks import report_exception
from .jobs import Job, TaskOutcome
from .task import Task

if TYPE_CHECKING:
    from .dispatcher import Dispatcher
    from .worker_handle import WorkerHandle

_BACKLOG_INTERVAL = 1_000_000  # nanoseconds between two counts of the backlog
_MANY = CAPACITY // 8  # records of a worker
_LATE = 10_000_000  # nanoseconds after which all that has begun is recorded


class Tracing:
    """Tells the trace what happens to workers and tasks; only the thread of the event loop uses it.

    Args:
        file: The trace.
        dispatcher: Knows the workers and the backlog.
    """

    def __init__(self, file: TraceFile, dispatcher: Dispatcher) -> None:
        self._file = file
        self._dispatcher = dispatcher
        self._job: Job | None = None  # that of the last task
        self._name = ""  # of its function
        self._next_count = 0  # of the backlog

    def worker_started(self, worker: WorkerHandle) -> None:
        """Take in that *worker* was started."""
        _row(worker).started(worker.pid)

    def tasks_ended(self, worker: WorkerHandle, outcomes: Iterable[TaskOutcome]) -> None:
        """Take in the outcomes of tasks of *worker*."""
        _row(worker).tasks_ended(
            [
                self._task_end(task, "ok" if success else type(value).__name__)
                for task, success, value in outcomes
            ]
        )
        now = perf_counter_ns()
        if now >= self._next_count:
            self._next_count = now + _BACKLOG_INTERVAL
            self._file.backlog(self._dispatcher.backlog_size)

    def deadlock(self, worker: WorkerHandle) -> None:
        """Take in that the task of *worker* is told of a deadlock."""
        _row(worker).mark("deadlock")

    def worker_ended(
        self, worker: WorkerHandle, tasks: Sequence[Task], code: int | None, *, expected: bool
    ) -> None:
        """Take in that *worker* has ended.

        Args:
            worker: The worker.
            tasks: What it had begun and not answered.
            code: Its exit code, if that is known.
            expected: Whether the pool is ending.
        """
        how = "TaskTimeoutError" if worker.timed_out else "BrokenPoolError" if expected else "WorkerDiedError"
        begun_at = worker.state.words.view[BEGUN_AT]
        # The word is of another clock.
        begun = perf_counter_ns() - (monotonic_ns() - begun_at) if begun_at else None
        mark = f"worker {worker.pid} {describe_exit(code)}"
        if worker.timed_out:
            mark = f"task timeout: {mark}"
        tasks_lost = [self._task_end(task, how) for task in tasks]
        _row(worker).worker_ended(tasks_lost, begun, "" if expected and not tasks else mark)

    def _task_end(self, task: Task, how: str) -> TaskEnd:
        if task.job is not self._job:
            self._job, self._name = task.job, task.job.function_name
        return TaskEnd(self._name, task.items, how)

    def step(self) -> None:
        """Write what there is, if it is time."""
        if not self._file.is_due():
            return
        now = perf_counter_ns()
        most = max((_row(worker).update() for worker in self._dispatcher.workers), default=0)
        self._file.backlog(self._dispatcher.backlog_size)
        self._job = None  # it would keep the items of its iterable in memory
        try:
            self._file.write(now - _LATE, is_much=most > _MANY)
        except OSError as error:
            self._warn(error)

    def seconds_to_next_step(self) -> float:
        """Return in how many seconds ``step`` should be called."""
        return self._file.seconds_to_next_write()

    def end(self) -> None:
        """Write what is left."""
        self._file.backlog(0)
        try:
            self._file.close()
        except OSError as error:
            self._warn(error)

    def close_file(self) -> None:
        """Close the file, in a child that was forked."""
        self._file.close_file()

    def _warn(self, error: OSError) -> None:
        try:
            warnings.warn(f"the trace {self._file.path!r} ends here: {error}", RuntimeWarning, stacklevel=2)
        except BaseException:  # noqa: BLE001 - warnings may be errors here
            report_exception()


def _row(worker: WorkerHandle) -> Row:
    row = worker.state.row
    assert row is not None  # noqa: S101 - each has one, if there is a trace
    return row
