"""The limit for tasks: the worker of a task that has run for too long is ended."""

from __future__ import annotations

from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING

from poollock._worker.worker_socket import BEGUN_AT, LAST_BEGUN

if TYPE_CHECKING:
    from .dispatcher import Dispatcher
    from .worker_handle import WorkerHandle

INTERVAL = 0.02  # seconds between two checks, while a worker is being ended
_KILL_DELAY = 1.0  # seconds between SIGTERM and SIGKILL
_ERROR_DELAY = 0.05  # seconds that the worker has to end, before whoever waits gets the error
_NANOSECONDS = 1e9


class TaskTimeouts:
    """Knows which tasks have run for too long, and ends their workers.

    Args:
        limit: Seconds that a task may run; None is no limit.
        dispatcher: Knows the workers, and which task each has.
    """

    def __init__(self, limit: float | None, dispatcher: Dispatcher) -> None:
        self.limit = limit
        self._dispatcher = dispatcher
        self._next_check = 0.0
        self._ended: dict[WorkerHandle, float] = {}  # since when a worker has been asked to end

    def seconds_to_next_step(self) -> float | None:
        """Return in how many seconds ``step`` should be called; None if there is no limit."""
        if self.limit is None:
            return None
        return INTERVAL if self._ended else max(0.0, self._next_check - monotonic())

    def step(self) -> list[WorkerHandle]:
        """End workers whose tasks have run for too long.

        Returns:
            The workers that still run, though they should have ended: the errors of their tasks are due.
        """
        now = monotonic()
        overdue: list[WorkerHandle] = []
        for worker, since in list(self._ended.items()):
            if worker not in self._dispatcher.workers:
                del self._ended[worker]
            elif now - since > _KILL_DELAY:
                worker.process.kill()
            elif now - since > _ERROR_DELAY and not worker.is_given_up:
                overdue.append(worker)
        if self.limit is not None and now >= self._next_check:
            self._next_check = now + min(self._time_left(), default=self.limit)
        return overdue

    def _time_left(self) -> list[float]:
        """Return how much time the running tasks have left, after the workers of others have been ended."""
        return [
            max(INTERVAL / 10, left) for worker in self._dispatcher.workers if (left := self._check(worker))
        ]

    def _check(self, worker: WorkerHandle) -> float:
        limit = self.limit or 0.0
        words = worker.state.words.view
        number = words[LAST_BEGUN]
        if worker.kill_reason or not worker.in_flight or worker.in_flight[0].number != number:
            return limit  # it runs no task, or its outcome has not been read yet
        left = limit - (monotonic_ns() - words[BEGUN_AT]) / _NANOSECONDS
        if left <= 0 and self._dispatcher.stop_after(worker, number):
            worker.timed_out = True
            worker.terminate(f"the task took longer than {limit:g} s")
            self._ended[worker] = monotonic()
        return left if left > 0 else INTERVAL
