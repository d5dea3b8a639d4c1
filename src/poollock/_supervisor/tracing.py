"""Tells the trace what happens to the workers and the tasks of a pool."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from poollock._backend.describe import describe_exit, show_error
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

_P = ParamSpec("_P")

_BACKLOG_INTERVAL = 1_000_000  # nanoseconds between two counts of the backlog
_MANY = CAPACITY // 8  # records of a worker
_LATE = 10_000_000  # nanoseconds after which all that has begun is recorded


def _guarded(method: Callable[Concatenate[Tracing, _P], object]) -> Callable[Concatenate[Tracing, _P], None]:
    """Have *method* do nothing once the trace has ended, and end the trace if it raises."""

    @wraps(method)
    def call(self: Tracing, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if not self.has_ended:
            try:
                method(self, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - none is known but OSError; none may end the pool
                self.fail(error)

    return call


class Tracing:
    """Tells the trace what happens to workers and tasks; only the thread of the event loop uses it.

    Whatever goes wrong ends the trace, and not the pool.

    Args:
        file: The trace.
        dispatcher: Knows the workers and the backlog.

    Attributes:
        has_ended: Whether nothing more is written, because something went wrong.
    """

    def __init__(self, file: TraceFile, dispatcher: Dispatcher) -> None:
        self.has_ended = False
        self._file = file
        self._dispatcher = dispatcher
        self._job: Job | None = None  # that of the last task
        self._name = ""  # of its function
        self._next_count = 0  # of the backlog

    @_guarded
    def worker_started(self, worker: WorkerHandle) -> None:
        """Take in that *worker* was started."""
        _row(worker).started(worker.pid)

    @_guarded
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

    @_guarded
    def deadlock(self, worker: WorkerHandle, lock: str) -> None:
        """Take in that the task of *worker*, which waits for *lock*, is told of a deadlock."""
        task = worker.first_task
        what = task.describe() if task is not None else "a task"
        _row(worker).mark(f"deadlock: {what} waited for {lock}")

    @_guarded
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
        error = "BrokenPoolError" if expected else "WorkerDiedError"
        how = f"worker {worker.pid} {describe_exit(code)}"
        if worker.timed_out:
            error, how = "TaskTimeoutError", f"task timeout: {how}"
        if tasks:
            how += f" while it ran {tasks[0].describe()}"
        begun_at = worker.state.words.view[BEGUN_AT]
        # The word is of another clock.  If this thread has to pause between the two, the time is too early.
        begun = perf_counter_ns() - (monotonic_ns() - begun_at) if begun_at else None
        ends = [self._task_end(task, error) for task in tasks]
        is_usual = not tasks and (expected or code == 0)
        _row(worker).worker_ended(ends, begun, "" if is_usual else how)

    def _task_end(self, task: Task, how: str) -> TaskEnd:
        if task.job is not self._job:
            self._job, self._name = task.job, str(task.job.function_name)
        return TaskEnd(self._name, task.items, how)

    def step(self) -> None:
        """Write what there is, if it is time."""
        if not self._file.is_due():
            return
        self._write()
        self._job = None  # it would keep the items of its iterable in memory
        if self.has_ended:  # the workers record all the same, and wait for room
            for worker in self._dispatcher.workers:
                _row(worker).reader.take()
            self._file.write(0)  # nothing: but from now on it is not due for a while

    @_guarded
    def _write(self) -> None:
        now = perf_counter_ns()
        most = max((_row(worker).update() for worker in self._dispatcher.workers), default=0)
        self._file.backlog(self._dispatcher.backlog_size)
        self._file.write(now - _LATE, is_much=most > _MANY)

    def seconds_to_next_step(self) -> float:
        """Return in how many seconds ``step`` should be called."""
        return self._file.seconds_to_next_write()

    @_guarded
    def end(self) -> None:
        """Write what is left."""
        self._job = None
        self._file.backlog(0)
        self._file.close()

    def close_file(self) -> None:
        """Close the file, in a child that was forked."""
        self._file.close_file()

    def fail(self, error: Exception) -> None:
        """End the trace, because *error* was raised."""
        self.has_ended = True
        self._file.close_file()
        try:
            text = f"the trace {self._file.path!r} ends here: {show_error(error)}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        except BaseException:  # noqa: BLE001 - warnings may be errors here
            report_exception()


def _row(worker: WorkerHandle) -> Row:
    row = worker.state.row
    assert row is not None  # noqa: S101 - each has one, if there is a trace
    return row
