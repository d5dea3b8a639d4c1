"""Jobs: what each call of a pool's method is made of, from its arguments to its result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeAlias

from poollock._errors import LockWait
from poollock._worker.outcome_pickling import load_outcome
from poollock._worker.pickling_errors import function_name
from poollock._worker.task_pickling import CALL

from .callbacks import Callbacks
from .failures import MakeError
from .results import NO_RESULT, Result, ResultQueue
from .task import Task

# Iterables that never block and take no time: they need no thread of their own.
_AT_HAND = frozenset({list, tuple, range, dict, set, frozenset, str, bytes})


class Job:
    """One call of a pool's method: the tasks that it is made of, and its result.

    Args:
        how: ``CALL``, or ``MAP`` or ``STARMAP`` for chunks of items.
        func: The task function.
        arguments: For each task, the arguments of ``dump_task``.
        result: Where the outcomes go.
        kwds: The keyword arguments of each call.
        chunksize: How many items a task has; 0 if the job is a single call.
        length: How many items there should be, if that is known.
        at_hand: Whether to go through *arguments* takes no time.
    """

    def __init__(
        self,
        how: int,
        func: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        result: Result,
        *,
        kwds: Mapping[str, Any] | None = None,
        chunksize: int = 0,
        length: int = 0,
        at_hand: bool = True,
    ) -> None:
        self.how = how
        self.func = func
        self.kwds = kwds or {}
        self.result: Result = result
        self.at_hand = at_hand
        self.is_over = False  # nobody waits for outcomes of its tasks any more
        self.has_run = False  # a worker has begun one of its tasks, and has it no more
        self.chunksize = chunksize
        self._length = length
        self._arguments: Iterator[tuple[Any, ...]] = iter(arguments)
        self._taken = 0  # tasks so far
        self.count = None if chunksize else 1  # tasks in all, once that is known
        self.done = 0  # tasks whose outcomes are in

    @property
    def function_name(self) -> str:
        """What a message calls its function."""
        return function_name(self.func)

    def next_task(self) -> tuple[Task, tuple[Any, ...]] | None:
        """Return the next task and its arguments; None if there are no more.

        Raises:
            ValueError: The iterable has fewer items than its length.
            BaseException: What the iterable raised.
        """
        arguments = next(self._arguments, None)
        if arguments is None:
            if self._taken * self.chunksize < self._length:
                raise ValueError("the iterable has fewer items than its length")
            return None
        # A single call has no items, whatever the number of its arguments; else there is one item for each.
        task = Task(self, self._taken, len(arguments) if self.chunksize else 0)
        self._taken += 1
        return task, arguments

    def label(self, task: Task, arguments: tuple[Any, ...]) -> Iterable[tuple[str, Any]]:
        """Return *arguments*, each after what a message calls it."""
        if task.items and self.how != CALL:
            return [(f"item {item}", value) for item, value in zip(task.items, arguments, strict=True)]
        named = [(f"argument {name!r}", value) for name, value in self.kwds.items()]
        return [(f"argument {index}", value) for index, value in enumerate(arguments)] + named

    def release(self) -> None:
        """Let go whoever waits for the result, and forget it.

        The traceback of an error that came up in this process leads to the job: if the job led to the error,
        all that the traceback leads to would stay in memory until the garbage collector runs.
        """
        result, self.result = self.result, NO_RESULT
        result.release()

    def end_of_tasks(self) -> int:
        """Forget the iterable, all of whose tasks have been taken; return how many there were."""
        self._arguments = iter(())
        return self._taken


def is_at_hand(iterable: Iterable[Any]) -> bool:
    """Return whether going through *iterable* never blocks and takes no time."""
    return type(iterable) in _AT_HAND


def chunks_of(iterable: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Yield the items in tuples of *size*, the last one perhaps smaller."""
    items = iter(iterable)
    while chunk := tuple(islice(items, size)):
        yield chunk


def in_buffer(iterable: Iterable[Any], results: ResultQueue) -> Iterator[Any]:
    """Yield the items, each when there is room for its result in the buffer of *results*."""
    items = iter(iterable)
    while results.wait_for_room():
        try:
            item = next(items)
        except StopIteration:
            return
        yield item
        del item  # while this waits for room, it need not be in memory


# A task, whether it succeeded, and its result or its error.
TaskOutcome: TypeAlias = tuple[Task, bool, Any]


def load_task_outcome(task: Task, payload: memoryview) -> TaskOutcome:
    """Return the outcome of *task* that a worker has sent; warn of locks that it left held."""
    success, value, locks_left = load_outcome(payload, task.describe)
    if locks_left:
        task.warn_of_locks_left(locks_left)
    return task, success, value


class PendingJobs:
    """The jobs whose results are awaited.

    Any thread may add a job.  Only the thread of the event loop decides results, as long as it runs.

    Args:
        wake: Wakes the event loop.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self.callbacks = Callbacks()
        self._wake = wake
        self._jobs: dict[Job, object] = {}  # and the pool of each

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job, pool: object) -> None:
        """Await the result of *job*; until it is there, keep *pool* alive."""
        self._jobs[job] = pool

    def cancel(self, job: Job) -> None:
        """Take no more tasks of *job*, run none that no worker has begun, and await nothing.

        Any thread may do this, a finalizer in it, too.
        """
        job.is_over = True
        self._jobs.pop(job, None)
        self._wake()  # a pool that was closed may end now

    def set(self, outcomes: Iterable[TaskOutcome]) -> None:
        """Take in the outcomes of tasks."""
        for task, success, value in outcomes:
            self._add(task.job, task.index, success, value)

    def _add(self, job: Job, index: int, success: bool, value: Any) -> None:  # noqa: FBT001 - half of an outcome
        if not job.is_over:
            job.result.add(index, success, value)
            job.done += 1
            if job.done == job.count:
                self._settle(job, job.result.finish())

    def end_of_tasks(self, job: Job, count: int, error: BaseException | None = None) -> None:
        """Say that *job* has *count* tasks; and what its iterable raised after them, if it did."""
        if error is not None:
            job.count = count + 1
            self._add(job, count, False, error)  # noqa: FBT003 - it failed
        else:
            job.count = count
            if job.done == count and not job.is_over:
                self._settle(job, job.result.finish())

    def fail(self, job: Job, error: BaseException) -> None:
        """Give *error* to whoever waits for *job*."""
        if not job.is_over:
            self._settle(job, job.result.fail(error))

    def _settle(self, job: Job, callback: Callable[[], object] | None) -> None:
        """Let go whoever waits for *job*, whose result is decided, after its *callback*."""
        job.is_over = True
        if callback is None:
            self._release(job)
        else:
            self.callbacks.put(partial(self._call_and_release, job, callback))

    def _call_and_release(self, job: Job, callback: Callable[[], object]) -> None:
        callback()
        self._release(job)
        self._wake()  # a pool that was closed may end now

    def _release(self, job: Job) -> None:
        job.release()
        self._jobs.pop(job, None)

    def fail_all(self, make_error: MakeError) -> None:
        """Give an error to whoever waits; where a result is decided, its callback is called first."""
        for job in list(self._jobs):
            self.fail(job, make_error())

    def fail_all_now(self, make_error: MakeError) -> None:
        """The same, and let everybody go at once: a callback may take as long as it wants.

        Several threads may do this at the same time, after the event loop has ended.
        """
        while self._jobs:
            try:
                job, _ = self._jobs.popitem()
            except KeyError:  # another thread has taken the last one
                return
            callback = None if job.is_over else job.result.fail(make_error())
            job.is_over = True
            job.release()
            if callback is not None:
                self.callbacks.put(callback)


class JobRunner(Protocol):
    """What a pool needs of that which runs its jobs: a ``Supervisor``, or a cluster's."""

    pending: PendingJobs

    @property
    @abstractmethod
    def belongs_to_this_process(self) -> bool:
        """Whether its threads are, or were, in this process: none outlives a fork."""

    @property
    @abstractmethod
    def in_callback(self) -> bool:
        """Whether the running thread is one that calls a callback."""

    @abstractmethod
    def submit(self, job: Job, pool: object) -> None:
        """Have *job* run; until it is done, keep *pool* alive, whose end would end this."""

    @abstractmethod
    def submit_call(self, func: Callable[..., Any], args: tuple[Any, ...], kwds: Any, pool: object) -> Any:
        """Have one call run; return its ``concurrent.futures.Future``."""

    @abstractmethod
    def request_start(self) -> None:
        """Start workers that are missing."""

    @abstractmethod
    def lock_waits(self) -> list[LockWait]:
        """Return the waits of tasks for locks that have lasted for a second."""

    @abstractmethod
    def close(self) -> None:
        """End once all jobs are done."""

    @abstractmethod
    def terminate(self) -> None:
        """End at once, without waiting for that."""

    @abstractmethod
    def join(self) -> None:
        """Wait for the end."""
