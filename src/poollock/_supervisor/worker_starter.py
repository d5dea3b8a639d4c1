"""The workers as the pool's process knows them, and their starting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

from poollock._backend.sigint import block_sigint
from poollock._worker.main import InitArgs, StartupData, run_worker

from .worker_handle import WorkerHandle, WorkerState

_PAUSE = 0.1  # seconds before another start, for each that failed before
_LONGEST_PAUSE = 1.0  # seconds


class WorkerStarter:
    """StartupFailures the workers, and those that replace them.

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
        setup: Callable[[], InitArgs],
    ) -> None:
        self.processes: list[Any] = []
        self.failures = 0  # workers in a row that ended before they were ready
        self._ctx = ctx
        self._make_process = make_process
        self._maxtasks = maxtasks
        self._setup = setup
        self._slots = [WorkerState(ctx) for _ in range(size)]
        self._paused = False
        self._starting = threading.Lock()
        self._wanted = threading.Event()
        self._stopping = threading.Event()

    def fill(self) -> tuple[list[WorkerHandle], BaseException | None]:
        """Start the workers that are missing; return them, and why there are not more."""
        started: list[WorkerHandle] = []
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

    def _make_all(self) -> tuple[list[WorkerHandle], BaseException | None]:
        made: list[WorkerHandle] = []
        try:
            while self._slots and not (self._paused or self.stopped):
                made.append(self._make(self._slots.pop()))
        except BaseException as error:  # noqa: BLE001 - no descriptor is left, say: the others are of use
            return made, error
        return made, None

    def _make(self, slot: WorkerState) -> WorkerHandle:
        try:
            worker = WorkerHandle(slot, self._maxtasks)
            worker.startup_data = StartupData((slot.words, slot.claims, self._setup()))
            worker.process = self._make_process(
                self._ctx, target=run_worker, args=(worker.end, worker.maxtasks, worker.startup_data)
            )
        except BaseException:
            self._slots.append(slot)
            raise
        worker.process.name = worker.process.name.replace("Process", "PoolWorker")
        worker.process.daemon = True
        return worker

    def remove(self, worker: WorkerHandle) -> None:
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

    def keep(self, add: Callable[[WorkerHandle], None], failed: Callable[[BaseException], None]) -> None:
        """Be the thread that starts replacements, until ``stop``.

        Args:
            add: Called with each worker that was started.
            failed: Called when one could not be.
        """
        block_sigint()  # its workers inherit that
        while not self.stopped:
            self._wanted.wait()
            self._wanted.clear()
            self._stopping.wait(min(self.failures * _PAUSE, _LONGEST_PAUSE))
            started, error = self.fill()
            for worker in started:
                add(worker)
            if error is not None:
                failed(error)
