"""The client's threads between a pool's methods and Dask: tasks go out, outcomes come in, results are set."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from poollock._backend.describe import show_error
from poollock._errors import LockWait, PoolLockError
from poollock._locks.base import BaseLock
from poollock._supervisor.callbacks import report_exception
from poollock._supervisor.failures import broken_pool, pool_ended
from poollock._supervisor.futures import FutureResult, PoolFuture
from poollock._supervisor.jobs import Job, PendingJobs
from poollock._supervisor.results import ApplyResult, waiting_threads
from poollock._supervisor.task import Task
from poollock._supervisor.task_handler import TaskHandler
from poollock._worker.outcome_pickling import load_outcome
from poollock._worker.pickling_errors import explain_pickling_error
from poollock._worker.task_pickling import CALL

from ._dask import PICKLER
from ._errors import DaskWorkerDiedError
from ._lock_table import Message
from ._member import Holder, Member
from ._session import Session, waits_of
from ._task import NotBegunError, dump_arguments, dump_function, run_task

Key: TypeAlias = tuple[str, int]  # of a task, in Dask: its job's name, and which of the job's tasks it is

_BATCH = 2000  # tasks that are given to Dask at once, at most
_POLL_INTERVAL = 0.1  # seconds between two checks whether the thread that sets results is alive
_BATCH_BYTES = 4 << 20  # the same, in bytes of arguments; Dask warns of 10 MB
_PATIENCE = 2.0  # seconds that the end of a pool waits for the scheduler to know of it


class _Running(NamedTuple):
    """A job whose tasks are given to Dask.

    Attributes:
        name: Its name in the cluster.
        keys: Its tasks that have been given to Dask, and whose outcomes are not in.
    """

    name: str
    keys: set[Key]


class ClusterSupervisor:
    """Has the jobs of a pool run on a Dask cluster.

    Three threads: one takes the tasks out of the jobs and pickles them, one gives them to Dask, and one takes
    in what comes of them: it alone sets results.  None is Dask's own, because what users define runs in them.

    Args:
        client: The client of the cluster.
        session: The connection to the scheduler's plugin.
        pool: What the pool is called in the cluster.
        locks: The pool's locks by name.
        end: Called when all is done.

    Attributes:
        pending: The jobs whose results are awaited.
    """

    def __init__(
        self,
        client: Any,
        session: Session,
        pool: str,
        locks: Mapping[str, BaseLock],
        end: Callable[[], object],
    ) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.pending = PendingJobs(self._wake)
        self._client = client
        self._session = session
        self._pool = pool
        self._locks = locks
        self._end = end
        self._jobs: dict[Job, _Running] = {}
        self._tasks: dict[Key, Task] = {}  # the tasks that Dask has
        self._futures: dict[Key, Any] = {}
        self._early: dict[Key, Message] = {}  # messages about tasks whose futures are not here yet
        self._outgoing: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._closing = False
        self._terminating = False
        self._is_over = False
        self._task_handler = TaskHandler(self._outgoing, self.pending, self, PICKLER, dump_arguments)
        self._results = _make_thread(self._run, "results")
        self._threads = [
            self._results,
            _make_thread(self._task_handler.run, "tasks"),
            _make_thread(self._give_to_dask, "dask"),
        ]
        for thread in self._threads:
            thread.start()

    # What the pool calls.

    @property
    def belongs_to_this_process(self) -> bool:
        """Whether its threads are in this process: none outlives a fork."""
        return self._results.is_alive() or self._is_over

    @property
    def in_callback(self) -> bool:
        """Whether the running thread is one that calls a callback."""
        return self.pending.callbacks.is_current_thread

    def submit(self, job: Job, pool: object) -> None:
        """Have *job* run; until it is done, keep *pool* alive, whose end would end this."""
        self.pending.add(job, pool)
        try:
            function = dump_function(job.func, self._locks)
            name = self._session.add_job(job.function_name, function, self)
        except PoolLockError as error:
            self.call_soon_threadsafe(partial(self.pending.fail, job, broken_pool(str(error))))
        except Exception as error:  # noqa: BLE001 - whatever pickling raises is the job's error
            explained = explain_pickling_error(error, PICKLER, job.func, [], job.function_name)
            self.call_soon_threadsafe(partial(self.pending.fail, job, explained))
        else:
            self._jobs[job] = _Running(name, set())
            self._task_handler.put(job)
        if self._is_over:  # while this was added: nobody would take notice
            self.pending.fail_all_now(pool_ended)

    def submit_call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwds: Any, pool: object
    ) -> PoolFuture:
        """Have one call run; return its ``concurrent.futures.Future``."""
        future = PoolFuture(self)
        job = Job(CALL, func, [args], FutureResult(future), kwds=kwds)
        future.belongs_to(job)
        self.submit(job, pool)
        return future

    def request_start(self) -> None:
        """Start no workers: that is the cluster's part."""

    def lock_waits(self) -> list[LockWait]:
        """Return the waits for the pool's locks that have lasted for a second."""
        return waits_of(self._session.ask("waits", pool=self._pool))

    def has_begun(self, job: Job) -> bool:
        """Return whether a worker has begun *job*, a single call."""
        running = self._jobs.get(job)
        return running is not None and bool(self._session.ask("has_begun", job=running.name, index=0)["ok"])

    def withdraw(self, job: Job) -> bool:
        """Have *job*, a single call, not run; return False if it has begun."""
        running = self._jobs.get(job)
        try:
            if running is not None and not self._session.ask("withdraw", job=running.name, index=0)["ok"]:
                return False
        except PoolLockError:  # the connection has ended: the call's error is on its way
            return False
        self.pending.cancel(job)
        return True

    def close(self) -> None:
        """End once all jobs are done."""
        self._closing = True
        self._wake()

    def terminate(self) -> None:
        """Have no more tasks begin; whoever waits gets an error.  What has begun goes on."""
        self._terminating = True
        self._wake()

    def join(self) -> None:
        """Wait for the end, unless this is called by one of its own threads."""
        if threading.current_thread() not in self._threads:
            self._results.join()

    # What the session calls, in Dask's event loop.

    def receive(self, message: Message) -> None:
        """Take in a message about a task."""
        self._calls.put(partial(self._take_in, message))

    def connection_lost(self, reason: str) -> None:
        """Take in that no more messages will come."""
        self._calls.put(partial(self._break, reason))

    def awaited_jobs(self, threads: list[str]) -> dict[str, str]:
        """Return for which job's results each of *threads* waits, if it needs all of them."""
        waiting = {thread: waiting_threads.get(int(thread)) for thread in threads}
        names = {id(job.result): running.name for job, running in self._jobs.copy().items()}
        return {
            thread: names[id(result)]
            for thread, result in waiting.items()
            if isinstance(result, ApplyResult) and id(result) in names
        }

    # The thread that gives tasks to Dask.

    def _give_to_dask(self) -> None:
        while (task := self._outgoing.get()) is not None:
            batch, size = [task], len(task.payload)
            while len(batch) < _BATCH and size < _BATCH_BYTES:
                try:
                    more = self._outgoing.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    return
                batch.append(more)
                size += len(more.payload)
            self._give_batch(batch)
            del task, batch

    def _give_batch(self, batch: Iterable[Task]) -> None:
        tasks: dict[Key, Task] = {}
        for task in batch:
            running = self._jobs.get(task.job)
            if running is not None and not task.job.is_over:
                key = running.name, task.index
                tasks[key] = task
                running.keys.add(key)
        if not tasks:
            return
        self._tasks.update(tasks)
        try:
            futures = self._client.map(
                run_task,
                [self._session.member.session] * len(tasks),
                [job for job, _ in tasks],
                [index for _, index in tasks],
                [task.describe() for task in tasks.values()],
                [task.payload for task in tasks.values()],
                key=list(tasks),
                pure=False,
                retries=0,
            )
        except BaseException as error:  # noqa: BLE001 - the client was closed, for example
            failure = broken_pool(f"the Dask client takes no tasks: {show_error(error)}")
            self._calls.put(partial(self._settle_all, list(tasks), failure))
            return
        for task in tasks.values():
            task.payload = b""
        self._calls.put(partial(self._given, dict(zip(tasks, futures, strict=True))))

    # The thread that sets results.

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        """Have *call* called by the thread that sets results."""
        self._calls.put(call)

    def call(self, call: Callable[[], object]) -> None:
        """Have *call* made by that thread; wait for that, unless the thread has ended."""
        done = threading.Event()

        def make_call() -> None:
            try:
                call()
            finally:
                done.set()

        self._calls.put(make_call)
        while not done.wait(_POLL_INTERVAL) and self._results.is_alive():
            pass

    def _wake(self) -> None:
        self._calls.put(self._sweep)

    def _run(self) -> None:
        try:
            while not self._terminating and not (self._closing and not self.pending):
                call = self._calls.get()
                try:
                    call()
                except BaseException:  # noqa: BLE001 - no such error is known; the others must get their results
                    report_exception()
                del call
        finally:
            self._finish()

    def _finish(self) -> None:
        self._is_over = True
        self._outgoing.put(None)
        self._task_handler.stop()
        self._task_handler.broken = self._task_handler.broken or pool_ended
        self.pending.fail_all_now(self._task_handler.broken)
        self._sweep()
        self._futures.clear()
        self.pending.callbacks.stop()
        try:
            with suppress(PoolLockError):
                self._session.flush(_PATIENCE)  # until then a worker may be allowed to begin a task
                self._session.tell("drop", pool=self._pool)
        finally:
            self._end()

    def _sweep(self) -> None:
        """Let go the tasks of jobs that are over: Dask runs none of them that has not begun."""
        for job in [job for job in self._jobs.copy() if job.is_over]:
            running = self._jobs.pop(job)
            self._session.forget(running.name)
            for key in list(running.keys):
                self._let_go(key)

    def _let_go(self, key: Key) -> Task | None:
        self._early.pop(key, None)
        self._futures.pop(key, None)  # which tells Dask that nobody wants the task any more
        task = self._tasks.pop(key, None)
        if task is not None:
            running = self._jobs.get(task.job)
            if running is not None:
                running.keys.discard(key)
        return task

    def _given(self, futures: Mapping[Key, Any]) -> None:
        for key, future in futures.items():
            task = self._tasks.get(key)
            if task is None:  # its outcome was faster
                continue
            if task.job not in self._jobs:  # it was over before its tasks were here
                self._let_go(key)
                continue
            self._futures[key] = future
            if key in self._early:
                self._take_in(self._early.pop(key))

    def _take_in(self, message: Message) -> None:
        key = message["job"], message["index"]
        task = self._tasks.get(key)
        if task is None:
            return
        op = message["op"]
        if op == "ended":
            self._settle(key, *self._load(task, message["outcome"]))
        elif op == "died":
            member = Member(*message["member"])
            process = Holder(member.pid, member.host, member.worker)
            locks = tuple(message["locks"])
            error = DaskWorkerDiedError(process, message["code"], task.describe(), locks, "", task.items)
            self._settle(key, success=False, value=error)
        elif op == "cancelled":
            self._settle(key, success=False, value=broken_pool(f"Dask was told to cancel {task.describe()}"))
        elif key in self._futures:
            look = partial(self._look, key, task, message["member"])
            self._futures[key].add_done_callback(look)
        else:
            self._early[key] = message

    def _look(self, key: Key, task: Task, member: tuple[Any, ...] | None, future: Any) -> None:
        """Fetch from Dask what became of a task.  A thread of Dask's for callbacks calls this.

        Args:
            key: The task's key.
            task: The task.
            member: The process that has its result, if it has begun.
            future: Dask's future for it, which is done.
        """
        try:
            outcome = future.result()
        except BaseException as error:  # noqa: BLE001 - it is the task's outcome
            if member is not None:
                where = Member(*member)
                process = Holder(where.pid, where.host, where.worker)
                lost = DaskWorkerDiedError(
                    process, None, task.describe(), (), "", task.items, result_lost=True
                )
                self._calls.put(partial(self._settle, key, success=False, value=lost))
            elif not isinstance(error, NotBegunError):
                self._calls.put(partial(self._settle, key, success=False, value=error))
            return
        if outcome is not None:
            self._calls.put(lambda: self._settle(key, *self._load(task, outcome)))

    @staticmethod
    def _load(task: Task, outcome: bytes) -> tuple[bool, Any]:
        success, value, locks_left = load_outcome(memoryview(outcome), task.describe)
        if locks_left:
            task.warn_of_locks_left(locks_left)
        return success, value

    def _settle(self, key: Key, success: bool, value: Any) -> None:  # noqa: FBT001 - half of an outcome
        task = self._let_go(key)
        if task is not None:
            self.pending.set([(task, success, value)])
            if task.job.is_over:
                self._sweep()

    def _settle_all(self, keys: Iterable[Key], error: Exception) -> None:
        for key in keys:
            self._settle(key, success=False, value=error)

    def _break(self, reason: str) -> None:
        make_error = partial(broken_pool, reason)
        self._task_handler.broken = make_error
        self.pending.fail_all(make_error)
        self._sweep()


def _make_thread(target: Callable[[], object], name: str) -> threading.Thread:
    return threading.Thread(target=target, name=f"poollock-{name}", daemon=True)
