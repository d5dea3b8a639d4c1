"""How the event loop notices that a worker has ended: by a descriptor, or by asking again and again."""

from __future__ import annotations

from selectors import EVENT_READ, BaseSelector
from time import monotonic

from poollock._backend.process import POLL_INTERVAL, has_ended

from .worker_handle import WorkerHandle

_SHORT_INTERVAL = 0.02  # seconds between two checks, once the socket of such a worker has ended


class WorkerWatcher:
    """Notices that workers have ended.

    Args:
        selector: The event loop's: it gets the workers' sentinels, and the sockets are in it, too.
    """

    def __init__(self, selector: BaseSelector) -> None:
        self._selector = selector
        self._polled: list[WorkerHandle] = []  # those of whose end no descriptor tells
        self._is_urgent = False  # the socket of one of those has ended
        self._next_poll = 0.0

    def add(self, worker: WorkerHandle) -> None:
        """Watch *worker*."""
        if worker.sentinel >= 0:
            self._selector.register(worker.sentinel, EVENT_READ, worker)
        else:
            self._polled.append(worker)

    def remove(self, worker: WorkerHandle) -> None:
        """Watch *worker* no longer."""
        if worker in self._polled:
            self._polled.remove(worker)
            sockets = self._selector.get_map()
            self._is_urgent = any(other.sock not in sockets for other in self._polled)
        else:
            self._selector.unregister(worker.sentinel)

    def socket_ended(self, worker: WorkerHandle) -> None:
        """Take in that nothing more will come from *worker*: it is likely to have ended."""
        self._is_urgent |= worker in self._polled

    def sentinel_ended(self, worker: WorkerHandle) -> bool:
        """Take in that the sentinel of *worker* is readable; return whether the worker has ended."""
        if not worker.is_alive_after_all():
            return True
        self._selector.unregister(worker.process.sentinel)
        self.add(worker)
        return False

    def ended(self) -> list[WorkerHandle]:
        """Return the workers that have ended without a descriptor to tell of it."""
        now = monotonic()
        if not self._polled or (now < self._next_poll and not self._is_urgent):
            return []
        self._next_poll = now + POLL_INTERVAL
        # Even if a worker's socket is kept open: a process that was forked while it was made has a copy.
        return [worker for worker in self._polled if has_ended(worker.process)]

    def seconds_to_next_step(self) -> float | None:
        """Return in how many seconds ``ended`` should be called; None if there is no need."""
        if self._is_urgent:
            return _SHORT_INTERVAL
        return POLL_INTERVAL if self._polled else None
