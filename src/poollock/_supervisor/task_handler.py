"""The task handler: takes the tasks out of the jobs, pickles them, and gives them to the dispatcher."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeAlias

from poollock._backend.describe import show_error
from poollock._worker import task_pickling
from poollock._worker.object_pickling import AnyPickler
from poollock._worker.pickling_errors import explain_pickling_error

from .callbacks import report_exception
from .failures import MakeError, thread_failed
from .jobs import Job, PendingJobs
from .task import Task

_TURN = 64  # tasks that are taken from a job before it is another one's turn


DumpTask: TypeAlias = Callable[[Any, int, Any, tuple[Any, ...], Mapping[str, Any]], bytes]


class TaskSink(Protocol):
    """Who gets the tasks: a ``Dispatcher``."""

    @abstractmethod
    def put(self, task: Task, /) -> object:
        """Take in a task, whose payload is there."""


class ResultsThread(Protocol):
    """How the thread is reached that sets results: a ``Wakeup``."""

    @abstractmethod
    def call_soon_threadsafe(self, call: Callable[[], object], /) -> object:
        """Have *call* called by that thread."""


class TaskHandler:
    """What lies between the methods of a pool and the dispatcher.

    The jobs take turns in one thread.  A job whose iterable may block, such as a generator that
    reads from a network, has a thread of its own, and keeps no other job waiting.

    Args:
        dispatcher: Gets the tasks.
        pending: The jobs whose results are awaited.
        wakeup: Of the event loop, the only thread that sets results.
        pickler: Pickles the tasks.
        dump_task: Returns a task as bytes, with the parameters of ``task_pickling.dump_task``.

    Attributes:
        broken: Makes the error that each job gets from now on, if the pool is broken.
    """

    def __init__(
        self,
        dispatcher: TaskSink,
        pending: PendingJobs,
        wakeup: ResultsThread,
        pickler: AnyPickler,
        dump_task: DumpTask = task_pickling.dump_task,
    ) -> None:
        self.broken: MakeError | None = None
        self._dispatcher = dispatcher
        self._pending = pending
        self._wakeup = wakeup
        self._pickler = pickler
        self._dump_task = dump_task
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()

    def put(self, job: Job) -> None:
        """Have the tasks of *job* taken."""
        if not job.at_hand:
            with suppress(RuntimeError):  # this process gets no more threads
                Thread(target=self._run_one, args=(job,), name="poollock-iterable", daemon=True).start()
                return
        self._jobs.put(job)

    def stop(self) -> None:
        """End the thread, which takes no more tasks."""
        self._jobs.put(None)

    def run(self) -> None:
        """Be the thread that takes the tasks of all jobs in turns, until ``stop``."""
        turns: deque[Job] = deque()
        while True:
            with suppress(Empty):
                job = self._jobs.get(block=not turns)
                if job is None:
                    return
                turns.append(job)
            job = turns.popleft()
            if self._take_turn(job):
                turns.append(job)
            del job  # or it would be in memory until the next one comes

    def _run_one(self, job: Job) -> None:
        """Be the thread of one job."""
        while self._take_turn(job):
            pass

    def _take_turn(self, job: Job) -> bool:
        """Take some tasks of *job*; return whether there may be more."""
        try:
            return all(self._take_task(job) for _ in range(_TURN))
        except BaseException as error:  # noqa: BLE001 - no such error is known; if there is one, nobody may wait for ever
            report_exception()
            failure = thread_failed(show_error(error))
            self._wakeup.call_soon_threadsafe(partial(self._pending.fail, job, failure))
            return False

    def _take_task(self, job: Job) -> bool:
        if job.is_over:
            job.end_of_tasks()
            return False
        if self.broken:
            self._wakeup.call_soon_threadsafe(partial(self._pending.fail, job, self.broken()))
            return False
        try:
            taken = job.next_task()
        except BaseException as error:  # noqa: BLE001 - sys.exit() in an iterable is its job's error
            self._end_of_tasks(job, error)
            return False
        if taken is None:
            if job.count is None:
                self._end_of_tasks(job)
            return False
        task, arguments = taken
        try:
            task.payload = self._dump_task(self._pickler, job.how, job.func, arguments, job.kwds)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a __reduce__ is the task's error
            self._not_sent(task, _explain(error, self._pickler, task, arguments))
            return True
        del taken, arguments  # while this waits for room, they need not be in memory
        self._dispatcher.put(task)
        return True

    # These two keep an error out of the frame in which it was caught.  Its traceback leads to that frame: all
    # that it leads to would stay in memory until the garbage collector runs.

    def _end_of_tasks(self, job: Job, error: BaseException | None = None) -> None:
        end = partial(self._pending.end_of_tasks, job, job.end_of_tasks(), error)
        self._wakeup.call_soon_threadsafe(end)

    def _not_sent(self, task: Task, error: BaseException) -> None:
        self._wakeup.call_soon_threadsafe(partial(self._pending.set, [(task, False, error)]))


def _explain(
    error: BaseException, pickler: AnyPickler, task: Task, arguments: tuple[Any, ...]
) -> BaseException:
    if isinstance(error, Exception):
        with suppress(BaseException):  # whatever the user's objects do when they are looked at
            labelled = task.job.label(task, arguments)
            return explain_pickling_error(error, pickler, task.job.func, labelled, task.describe())
    return error
