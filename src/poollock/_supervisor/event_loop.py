"""The event loop of a pool: all that its workers tell it, by their outcomes and by their deaths."""

from __future__ import annotations

import os
import selectors
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from threading import Thread, current_thread
from time import monotonic, sleep
from typing import TYPE_CHECKING

from poollock._backend.describe import describe, show_error
from poollock._backend.process import has_ended
from poollock._locks.base import BaseLock
from poollock._worker.framing import MESSAGE
from poollock._worker.object_pickling import ObjectPickler

from . import deadlock_detector
from .callbacks import report_exception
from .deadlock_detector import DeadlockDetector
from .dispatcher import Dispatcher
from .failures import MakeError, pool_ended, task_lost, thread_failed
from .jobs import Job, PendingJobs, load_task_outcome
from .lock_recovery import INTERVAL, LockRecovery
from .startup_failures import StartupFailures
from .task_handler import TaskHandler
from .task_timeouts import TaskTimeouts
from .wakeup import Wakeup
from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter
from .worker_watcher import WorkerWatcher

if TYPE_CHECKING:
    from poollock._trace.trace_file import TraceFile

    from .tracing import Tracing

_KILL_DELAY = 1.0  # seconds between SIGTERM and SIGKILL
_SOON = 0.005  # seconds
_LONGEST = 3600.0  # seconds
_LEAST_DELAY = 0.00005  # seconds; to sleep for less takes longer than that

_event_loops: weakref.WeakSet[EventLoop] = weakref.WeakSet()


class EventLoop:
    """The thread that gives tasks to workers, hears of their outcomes and deaths, and sets results.

    Args:
        starter: Starts the workers.
        size: How many workers there should be.
        locks: The pool's own locks.
        pickler: Pickles for the workers.
        task_timeout: Seconds that a task may run; None is no limit.
        trace: Where it is written what the workers do, if that is wanted.
    """

    def __init__(
        self,
        starter: WorkerStarter,
        size: int,
        locks: Iterable[BaseLock],
        pickler: ObjectPickler,
        *,
        task_timeout: float | None = None,
        trace: TraceFile | None = None,
    ) -> None:
        self._starter = starter
        self._wakeup = Wakeup()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup.sock, selectors.EVENT_READ, None)
        self._watcher = WorkerWatcher(self._selector)
        self._dispatcher = Dispatcher(size, self._wakeup.wake)
        self._workers = self._dispatcher.workers
        self.pending = PendingJobs(self._wakeup.wake)
        self.task_handler = TaskHandler(self._dispatcher, self.pending, self._wakeup, pickler)
        self._startup_failures = StartupFailures(starter, self._workers)
        self._lock_recovery = LockRecovery(locks, starter, self._workers)
        self.deadlock_detector = DeadlockDetector(self._dispatcher)
        self._task_timeouts = TaskTimeouts(task_timeout, self._dispatcher)
        self._tracing: Tracing | None = None
        if trace is not None:
            from .tracing import Tracing  # noqa: PLC0415 - few programs want it

            self._tracing = Tracing(trace, self._dispatcher)
        self._thread = current_thread()  # until its own is started
        self._closing = False  # no job will come
        self._exiting = False  # the workers were told that no task will come
        self._terminating = False
        self._starter_ended = False
        self.over = False  # no result will be set any more
        self._make_error: MakeError = pool_ended  # for whoever still waits then
        self._kill_at: float | None = None  # when workers that did not heed SIGTERM are killed
        _event_loops.add(self)

    # Called by other threads.

    def add(self, worker: WorkerHandle) -> None:
        """Use a worker that was started."""
        worker.watch()
        self._wakeup.call_soon_threadsafe(partial(self._add, worker))

    def start_failed(self, error: BaseException) -> None:
        """Take in that a worker could not be started."""
        count = self._startup_failures.not_started(error)
        self._wakeup.call_soon_threadsafe(lambda: self._break_if(count()))

    def run_starter(self) -> None:
        """Be the thread that replaces workers."""
        try:
            self._starter.run(self.add, self.start_failed)
        finally:
            self._starter_ended = True
            self._wakeup.wake()

    def submit(self, job: Job, pool: object) -> None:
        """Have *job* run, and its result set; until then, keep *pool* alive."""
        self.pending.add(job, pool)
        self.task_handler.put(job)
        if self.over:  # since the caller checked: nobody else will see the job
            self.pending.fail_all_now(self._make_error)

    def has_begun(self, job: Job) -> bool:
        """Return whether a worker has begun *job*, a single call."""
        return self._dispatcher.has_begun(job)

    def call(self, call: Callable[[], object]) -> None:
        """Have *call* made by the thread of the event loop; wait for that, unless the thread has ended."""
        self._wakeup.call_in(self._thread, call)

    def close(self) -> None:
        """End once all jobs are done."""
        self._closing = True
        self._wakeup.wake()

    def terminate(self) -> None:
        """End the workers; whoever waits gets an error."""
        self._terminating = True
        self._wakeup.wake()

    def close_after_fork(self) -> None:
        """Close what the thread has open: at its end, and in every child that is forked."""
        self._selector.close()
        self._wakeup.close()
        if self._tracing is not None:
            self._tracing.close_file()

    # The thread itself.

    def withdraw(self, job: Job) -> bool:
        """Have *job*, a single call, not run; return False if it has begun, or is over."""
        # In no other thread: a signal handler that raises would lose tasks that are being revoked.
        if not self._dispatcher.withdraw(job):
            return False
        self.pending.cancel(job)
        return True

    def run(self, starter_thread: Thread) -> None:
        """Be the thread, until the pool has ended; start *starter_thread*, which replaces workers."""
        self._thread = current_thread()
        try:
            self._start(starter_thread)
            while not self._is_over():
                self.run_once()
        except BaseException as error:  # noqa: BLE001 - no such error is known; if there is one, nobody may wait for ever
            report_exception()
            self._make_error = partial(thread_failed, show_error(error))
            self.task_handler.broken = self._make_error
            self._starter.stop()
            for worker in self._workers:
                worker.process.kill()
        finally:
            self.over = True
            self._dispatcher.close()
            self.task_handler.stop()
            self.pending.fail_all_now(self._make_error)
            self.pending.callbacks.stop()
            if self._tracing is not None:
                self._tracing.end()
            self.close_after_fork()

    def _start(self, starter_thread: Thread) -> None:
        try:
            starter_thread.start()
        except RuntimeError:  # this process gets no more threads
            report_exception()
            self._starter_ended = self._terminating = True

    def _is_over(self) -> bool:
        return (
            (self._exiting or self._terminating)
            and self._starter_ended
            and not self._workers
            and not self._wakeup
            and not self._lock_recovery.pending
        )

    def run_once(self) -> None:
        """Wait for the next events and handle them."""
        soon = self._dispatcher.balance()
        delay = self._dispatcher.coalescing_delay()
        if delay > _LEAST_DELAY:
            sleep(delay)
        for key, events in self._selector.select(self._timeout(soon=soon)):
            if key.data is None:
                self._wakeup.drain()
            else:
                self._handle(key.data, key.fd, events)
        for worker in self._watcher.ended():
            self._reap(worker)
        self._wakeup.run_pending()
        while self._dispatcher.blocked:
            self._watch_writing(self._dispatcher.blocked.popleft())
        self._check_locks()
        for overdue in self._task_timeouts.step():
            self._give_up(overdue)
        if self._tracing is not None:
            self._tracing.step()
        self._end()

    def _check_locks(self) -> None:
        if self._lock_recovery.pending:
            self._lock_recovery.step(monotonic())
        if self.deadlock_detector.pending:
            victim = self.deadlock_detector.step(monotonic())
            if victim is not None and self._tracing is not None:
                self._tracing.deadlock(*victim)

    def _handle(self, worker: WorkerHandle, fd: int, events: int) -> None:
        if fd == worker.sentinel:
            if self._watcher.sentinel_ended(worker):
                self._reap(worker)
        elif worker in self._workers:
            if events & selectors.EVENT_WRITE:
                self._write(worker)
            if events & selectors.EVENT_READ:
                self._read(worker)

    def _timeout(self, *, soon: bool) -> float | None:
        if self._kill_at is not None or self._lock_recovery.pending:
            return INTERVAL
        if soon:
            return _SOON
        intervals = [self._task_timeouts.seconds_to_next_step(), self._watcher.seconds_to_next_step()]
        if self.deadlock_detector.pending:
            intervals.append(deadlock_detector.INTERVAL)
        if self._tracing is not None:
            intervals.append(self._tracing.seconds_to_next_step())
        # The system takes no timeout of more than some weeks.
        return min((min(interval, _LONGEST) for interval in intervals if interval is not None), default=None)

    def _end(self) -> None:
        """Do what is left to do once the pool is closed or terminated."""
        if self._terminating and self._kill_at is None:
            self._starter.stop()
            self._dispatcher.close()
            self.pending.fail_all_now(pool_ended)
            for worker in self._workers:
                worker.terminate("the pool was terminated")
            self._kill_at = monotonic() + _KILL_DELAY
        elif self._kill_at is not None and monotonic() > self._kill_at:
            for worker in self._workers:
                worker.process.kill()
        elif self._closing and not self._exiting and not self.pending:
            self._exiting = True
            self._starter.stop()
            for worker in self._workers:
                worker.close_input()

    # Workers.

    def _add(self, worker: WorkerHandle) -> None:
        self._workers.append(worker)
        self._selector.register(worker.sock, selectors.EVENT_READ, worker)
        self._watcher.add(worker)
        if not self._dispatcher.flush(worker):
            self._watch_writing(worker)
        if self._terminating:
            worker.process.terminate()
        elif self._exiting:
            worker.close_input()
        self._lock_recovery.added(worker)
        if self._tracing is not None:
            self._tracing.worker_started(worker)

    def _watch_writing(self, worker: WorkerHandle) -> None:
        has_not_ended = worker in self._workers and worker.sock in self._selector.get_map()
        if has_not_ended and worker.send_buffer:
            self._selector.modify(worker.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _write(self, worker: WorkerHandle) -> None:
        """Send more of what the socket of *worker* did not take."""
        if self._dispatcher.flush(worker):
            self._selector.modify(worker.sock, selectors.EVENT_READ, worker)
            if self._exiting:
                worker.close_input()

    def _read(self, worker: WorkerHandle) -> bool:
        """Take in what has arrived from *worker*; return whether there may be more."""
        frames: list[tuple[int, memoryview]] = []
        try:
            goes_on = worker.reader.receive()
            frames = worker.reader.frames()
            while frames and not worker.ready:
                self._startup_failures.message(worker, *frames.pop(0))
            for message in [payload for number, payload in frames if number == MESSAGE]:
                self.deadlock_detector.begin(worker, message)
            frames = [frame for frame in frames if frame[0] != MESSAGE]
            if len(frames) > len(worker.in_flight):
                raise ValueError("there are more outcomes than tasks")  # noqa: TRY301 - handled below like the others
        except BlockingIOError:
            return False
        except ConnectionError:
            goes_on = False
        except Exception as error:  # noqa: BLE001 - whatever unpickling raises costs this worker alone
            if worker.ready:
                worker.kill_reason = f"what it sent cannot be read in {describe()}: {show_error(error)}"
            worker.process.kill()
            goes_on = False
        if not goes_on:
            self._selector.unregister(worker.sock)
            self._watcher.socket_ended(worker)
            return False
        tasks = self._dispatcher.answered(worker, frames)
        outcomes = [load_task_outcome(task, data) for task, (_, data) in zip(tasks, frames, strict=True)]
        if self._tracing is not None:
            self._tracing.tasks_ended(worker, outcomes)
        self.pending.set(outcomes)
        return True

    def _reap(self, worker: WorkerHandle) -> None:
        """Take in that *worker* has ended: requeue its tasks, and free its locks."""
        while worker.sock in self._selector.get_map() and self._read(worker):
            pass
        if worker.sock in self._selector.get_map():
            self._selector.unregister(worker.sock)
        self._watcher.remove(worker)
        tasks = self._dispatcher.remove(worker)
        code = self._starter.reap(worker)
        if self._tracing is not None:
            self._tracing.worker_ended(worker, tasks, code, expected=self._exiting or self._terminating)
        held = self._lock_recovery.recover(worker.pid)
        self._starter.remove(worker)
        for task in () if worker.is_given_up else tasks:
            self.pending.set([(task, False, task_lost(worker, task, code, held, self._task_timeouts.limit))])
        if worker.ready or worker.kill_reason:
            self._starter.request_start()
        else:
            self._break_if(self._startup_failures.ended(code, has_main_module=worker.has_main_module))

    def _give_up(self, worker: WorkerHandle) -> None:
        """Give whoever waits for the task of *worker* the error before it ends: it does not heed SIGTERM."""
        if worker.sock not in self._selector.get_map():
            return  # it is ending
        held = self._lock_recovery.held_by(worker.pid)
        if has_ended(worker.process):  # perhaps before a manager was asked, which has freed its locks by then
            return
        worker.is_given_up = True
        self._selector.unregister(worker.sock)
        for task in list(worker.in_flight):
            self.pending.set([(task, False, task_lost(worker, task, None, held, self._task_timeouts.limit))])

    def _break_if(self, make_error: MakeError | None) -> None:
        """Break the pool if *make_error* is not None: all jobs, and all that come, get this error."""
        if make_error is not None:
            self.task_handler.broken = make_error
            self.pending.fail_all(make_error)
            self._dispatcher.close()
            for worker in self._workers:
                worker.process.terminate()


def _close_after_fork() -> None:
    for event_loop in list(_event_loops):
        event_loop.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
