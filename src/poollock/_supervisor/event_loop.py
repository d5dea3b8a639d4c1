"""The result handler: all that workers tell the pool, by their results and by their deaths."""

from __future__ import annotations

import os
import selectors
import weakref
from functools import partial
from threading import Thread
from time import monotonic, sleep
from typing import Any

from poollock._backend.describe import describe, show_error
from poollock._backend.process import POLL_INTERVAL, exit_code, has_ended
from poollock._errors import WorkerDiedError

from .callbacks import report
from .dispatcher import Dispatcher
from .failures import MakeError, pool_ended
from .lock_recovery import INTERVAL, LockRecovery, Purge, sacrifice
from .results import PendingResults
from .startup_failures import StartupFailures
from .task_handler import TaskHandler
from .wakeup import Wakeup
from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter

_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_SOON = 0.005  # seconds
_NAP = 0.00005  # seconds; a shorter sleep is not worth it

_channels: weakref.WeakSet[EventLoop] = weakref.WeakSet()


class EventLoop:
    """Between the pool and its workers.

    Args:
        crew: StartupFailures the workers.
        size: How many workers there should be.
        cache: The results that are waited for, by number of the job.
        reclaimer: Frees the locks of dead workers.
    """

    def __init__(
        self, crew: WorkerStarter, size: int, cache: dict[int, Any], reclaimer: LockRecovery
    ) -> None:
        self._crew = crew
        self._inbox = Wakeup()
        self._outcomes = PendingResults(cache, self._inbox.wake)
        self.over = False  # the result handler will see no more results
        self._reclaimer = reclaimer
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox.sock, selectors.EVENT_READ, None)
        self._dispatcher = Dispatcher(size, self._inbox.wake)
        self.intake = TaskHandler(self._dispatcher, self._outcomes, self._inbox)
        self._starts = StartupFailures(crew, self._dispatcher.workers)
        self._purge = Purge(reclaimer, crew, self._dispatcher.workers)
        self._leaving = False  # the workers were told that no task will come
        self._crew_ended = False
        self._terminating = False
        self._unwatched: list[WorkerHandle] = []  # of whose end no descriptor tells
        self._ending = False  # the pipe of one of those has ended
        self._look_at = 0.0  # when to look at those all the same: a stranger may keep the pipe open
        self._kill_at: float | None = None  # when workers that did not heed SIGTERM are killed
        _channels.add(self)

    # From other threads.

    def add(self, worker: WorkerHandle) -> None:
        """Have a worker that was started."""
        worker.watch()
        self._inbox.post(partial(self._add, worker))

    def start_failed(self, error: BaseException) -> None:
        """Learn that a worker could not be started."""
        failed = self._starts.failed(error)
        self._inbox.post(lambda: self._go_on(failed()))

    def handle_workers(self) -> None:
        """Be the thread that replaces workers."""
        try:
            self._crew.keep(self.add, self.start_failed)
        finally:
            self._crew_ended = True
            self._inbox.wake()

    def terminate(self) -> None:
        """End the workers; whoever waits gets an error."""
        self._terminating = True
        self._inbox.wake()

    def abandon(self) -> None:
        """Close what the result handler listens to: at its end, and in every child that is forked."""
        self._selector.close()
        self._inbox.close()

    @property
    def in_callback(self) -> bool:
        """Whether this is called by a callback, which the result handler waits for."""
        return self._outcomes.in_callback

    def fail_all(self) -> None:
        """Give an error to whoever waits, after the result handler has ended."""
        self._outcomes.fail_all(pool_ended, now=True)

    # The result handler.

    def run(self, worker_handler: Thread) -> None:
        """Be the thread that does all the rest, until the pool has ended; start the *worker_handler*."""
        try:
            self._start(worker_handler)
            while not self._is_over():
                self.run_once()
        except BaseException:  # noqa: BLE001 - it should not happen; nobody is to wait for ever if it does
            report()
            self._crew.stop()
            self._dispatcher.close()
            for worker in self._dispatcher.workers:
                worker.process.kill()
        finally:
            self.over = True
            self._outcomes.fail_all(pool_ended, now=True)
            self.abandon()
            self._outcomes.close()

    def _start(self, worker_handler: Thread) -> None:
        try:
            worker_handler.start()
        except RuntimeError:  # this process gets no more threads
            report()
            self._crew_ended = self._terminating = True

    def _is_over(self) -> bool:
        return (
            (self._leaving or self._terminating)
            and self._crew_ended
            and not self._dispatcher.workers
            and not self._inbox
            and not self._reclaimer.waits
        )

    def run_once(self) -> None:
        again = self._dispatcher.balance()
        slack = self._dispatcher.slack()
        if slack > _NAP:
            sleep(slack)
        for key, events in self._selector.select(self._timeout(again=again)):
            worker = key.data
            if worker is None:
                self._inbox.read()
            elif key.fd == worker.death:
                self._bury(worker)
            elif worker in self._dispatcher.workers:
                if events & selectors.EVENT_WRITE:
                    self._write(worker)
                if events & selectors.EVENT_READ:
                    self._read(worker)
        self._bury_ended()
        no_more = self.intake.ended  # before what was posted before it is looked at
        self._inbox.call_all()
        while self._dispatcher.blocked:
            self._watch_writing(self._dispatcher.blocked.popleft())
        if self._purge.waits:
            self._purge.look(monotonic())
        self._end(no_more=no_more)

    def _timeout(self, *, again: bool) -> float | None:
        if self._kill_at is not None or self._ending or self._purge.waits:
            return INTERVAL
        if again:
            return _SOON
        return POLL_INTERVAL if self._unwatched else None

    def _end(self, *, no_more: bool) -> None:
        """Do what is left to do once the pool is closed or terminated."""
        if self._terminating and self._kill_at is None:
            self._crew.stop()
            self._dispatcher.close()
            self._outcomes.fail_all(pool_ended, now=True)
            for worker in self._dispatcher.workers:
                worker.doomed = "the pool was terminated"
                worker.process.terminate()
            self._kill_at = monotonic() + _GRACE
        elif self._kill_at is not None and monotonic() > self._kill_at:
            for worker in self._dispatcher.workers:
                worker.process.kill()
        elif no_more and not self._leaving and not self._outcomes.pending:  # the last callback wakes this
            # One look: another thread may add one between two, and nothing would wake this one then.
            if self._outcomes.are_awaited:
                if self._dispatcher.is_empty():
                    self._outcomes.fail_all(pool_ended)  # the pool was closed before their tasks were seen
                    self._inbox.wake()
            else:
                self._leaving = True
                self._crew.stop()
                for worker in self._dispatcher.workers:
                    worker.leave()

    def _add(self, worker: WorkerHandle) -> None:
        self._dispatcher.workers.append(worker)
        self._selector.register(worker.sock, selectors.EVENT_READ, worker)
        if worker.death >= 0:
            self._selector.register(worker.death, selectors.EVENT_READ, worker)
        else:
            self._unwatched.append(worker)
        if not self._dispatcher.go_on(worker):
            self._watch_writing(worker)
        if self._terminating:
            worker.process.terminate()
        elif self._purge.is_on:
            sacrifice(worker)
        elif self._leaving:
            worker.leave()

    def _watch_writing(self, worker: WorkerHandle) -> None:
        has_not_ended = worker in self._dispatcher.workers and worker.sock in self._selector.get_map()
        if has_not_ended and worker.outgoing:
            self._selector.modify(worker.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _write(self, worker: WorkerHandle) -> None:
        """Send more of what did not fit into the pipe of *worker*."""
        if self._dispatcher.go_on(worker):
            self._selector.modify(worker.sock, selectors.EVENT_READ, worker)
            if self._leaving:
                worker.leave()

    def _read(self, worker: WorkerHandle) -> bool:
        """Take in what has arrived from *worker*; return whether there may be more."""
        frames: list[tuple[int, memoryview]] = []
        try:
            goes_on = worker.reader.receive()
            frames = worker.reader.frames()
            if frames and not worker.ready:
                self._starts.greeted(worker, frames.pop(0)[1])
            if len(frames) > len(worker.running):
                raise ValueError("there are more answers than tasks")  # noqa: TRY301 - one of those below
        except BlockingIOError:
            return False
        except ConnectionError:
            goes_on = False
        except Exception as error:  # noqa: BLE001 - whatever unpickling raises: it costs this worker alone
            if worker.ready:
                worker.doomed = f"what it sent cannot be read in {describe()}: {show_error(error)}"
            worker.process.kill()
            goes_on = False
        if not goes_on:
            self._selector.unregister(worker.sock)
            self._ending |= worker.death < 0
            return False
        tasks = self._dispatcher.answered(worker, frames)
        answers = zip(tasks, frames, strict=True)
        self._outcomes.set([self._outcomes.load(task, payload) for task, (_, payload) in answers])
        return True

    def _bury_ended(self) -> None:
        now = monotonic()
        if not self._unwatched or (now < self._look_at and not self._ending):
            return
        self._look_at = now + POLL_INTERVAL
        for worker in [worker for worker in self._unwatched if has_ended(worker.process)]:
            self._bury(worker)
        self._ending = any(worker.sock not in self._selector.get_map() for worker in self._unwatched)

    def _bury(self, worker: WorkerHandle) -> None:
        """Learn that *worker* has ended: its results are in, its tasks go to others."""
        while worker.sock in self._selector.get_map() and self._read(worker):
            pass
        if worker.sock in self._selector.get_map():
            self._selector.unregister(worker.sock)
        if worker.death >= 0:
            self._selector.unregister(worker.death)
        else:
            self._unwatched.remove(worker)
        pid = worker.process.pid
        tasks = self._dispatcher.remove(worker)
        code = exit_code(worker.process)
        held = self._reclaimer.reclaim(pid)
        self._crew.remove(worker)
        for task in tasks:
            error = WorkerDiedError(pid, code, self._outcomes.name(task), held, worker.doomed)
            self._outcomes.set([(task.job, task.index, (False, error))])
        if worker.ready or worker.doomed:
            self._crew.ask()
        else:
            self._go_on(self._starts.ended(code))

    def _go_on(self, broken: MakeError | None) -> None:
        """If the pool is *broken*, fail all tasks, and all that come, with what it makes."""
        if broken is not None:
            self.intake.broken = broken
            self._outcomes.fail_all(broken)
            self._dispatcher.close()
            for worker in self._dispatcher.workers:
                worker.process.terminate()


def _leave_to_parent() -> None:
    """Close what only the pool's process is to use; see ``_crew``."""
    for channel in list(_channels):
        channel.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
