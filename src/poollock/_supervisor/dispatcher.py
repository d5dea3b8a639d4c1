"""Which worker gets which task.

A worker whose tasks are tiny is sent some ahead, so that it need not wait for the pool between
two of them.  No task waits behind a long one because of that: tasks that a worker has not begun
are revoked when another worker has nothing to do, or when the task before them turns out to be
long.  A worker begins its tasks in the order in which they came, so that none waits behind a
younger one either.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING

from poollock._worker.framing import MESSAGE, header
from poollock._worker.worker_socket import LAST_BEGUN, REVOKED_FROM, REVOKED_TO

from .task import Task

if TYPE_CHECKING:
    from .jobs import Job
    from .worker_handle import WorkerHandle

_MAX_PREFETCH = 64  # tasks that a worker has at most, the one that it runs among them
_LEAST_TIME = 0.00001  # seconds that the least task takes a worker
_TINY = 250  # microseconds; after a longer task, none is sent ahead
_UNREAD = 1 << 16  # bytes of outcomes that a worker can send, safely, before it has to wait for the pool
_LONG = 0.005  # seconds after which no task is left waiting behind another
_SMALL = 1 << 14  # bytes; a larger task is sent only to a worker that has nothing else to do
_BACKLOG = 192  # tasks that are pickled before it is their turn, and four more for each worker
_REFILL = 64  # tasks that are pickled in one go, once there is room again
_BACKLOG_BYTES = 1 << 22
_LOCK_TIMEOUT = 0.01  # seconds to wait for a worker that is just recording that a task begins


class Dispatcher:
    """Hands the tasks to the workers.

    Args:
        size: How many workers there should be.
        wake: Called when there is another worker in `blocked`.
    """

    def __init__(self, size: int, wake: Callable[[], object]) -> None:
        self.workers: list[WorkerHandle] = []  # those that may get tasks
        self.blocked: deque[WorkerHandle] = deque()  # those whose sockets did not take all of a task
        self._wake = wake
        self._closed = False
        self._lock = threading.Lock()
        self._backlog: deque[Task] = deque()
        self._bytes = 0  # of the backlog
        self._sequence = 0
        self._capacity = _BACKLOG + 4 * size
        self._refill_at = self._capacity - _REFILL
        self._size = size
        self._idle: dict[WorkerHandle, None] = {}
        self._not_full = threading.Event()
        self._next_check = 0.0  # when to look for tasks that wait behind a long one

    @property
    def backlog_size(self) -> int:
        """How many tasks are pickled, and wait for a worker."""
        return len(self._backlog)

    def put(self, task: Task) -> None:
        """Send *task* to an idle worker, or keep it until its turn; wait while the backlog is full."""
        with self._lock:
            if self._closed or task.job.is_over:
                return
            self._sequence += 1
            task.sequence = self._sequence
            if self._idle:
                worker, _ = self._idle.popitem()
                self._send(worker, [task])
                return
            self._backlog.append(task)
            self._bytes += len(task.payload)
            if len(self._backlog) < self._capacity and self._bytes < _BACKLOG_BYTES:
                return
            self._not_full.clear()
        self._not_full.wait()

    def answered(self, worker: WorkerHandle, answers: list[tuple[int, memoryview]]) -> list[Task]:
        """Return the tasks that *worker* has done, and give it others.

        Args:
            worker: The worker.
            answers: For each of them, the microseconds that it took, and its outcome.
        """
        if answers:
            micros, payload = answers[-1]
            most = min(_MAX_PREFETCH, _UNREAD // (len(payload) + 1))
            worker.prefetch = max(1, min(worker.prefetch * 2, most)) if micros < _TINY else 1
        with self._lock:
            tasks = [worker.in_flight.popleft() for _ in answers]
            for task in tasks:
                task.job.has_run = True
            worker.done += len(tasks)
            self._feed(worker)
        return tasks

    def coalescing_delay(self) -> float:
        """Return for how many seconds all workers have enough tiny tasks to be left alone.

        Meanwhile they send outcomes, which are then read in one go.
        """
        if any(worker.reader.is_receiving for worker in self.workers):
            return 0.0
        ahead = [min(len(worker.in_flight), worker.prefetch) for worker in self.workers]
        return min((count for count in ahead if count > 1), default=0) * _LEAST_TIME

    def _feed(self, worker: WorkerHandle) -> None:
        """Send *worker* the tasks that it may have; note that it is idle if there are none."""
        room = worker.capacity(min(worker.prefetch, 1 + len(self._backlog) // self._size))
        tasks: list[Task] = []
        while len(tasks) < room and self._backlog:
            task = self._backlog[0]
            large = len(task.payload) > _SMALL
            before = tasks or worker.in_flight
            if before and (large or task.sequence < before[-1].sequence):
                break
            self._backlog.popleft()
            self._bytes -= len(task.payload)
            if task.job.is_over:  # nobody wants its outcome
                continue
            tasks.append(task)
            if large:
                break
        if len(self._backlog) <= self._refill_at and self._bytes <= _BACKLOG_BYTES // 2:
            self._not_full.set()
        if tasks:
            self._send(worker, tasks)
        elif room and not worker.in_flight:
            self._idle[worker] = None

    def _send(self, worker: WorkerHandle, tasks: list[Task]) -> None:
        parts: list[bytes] = []
        for task in tasks:
            worker.number += 1
            task.number = worker.number
            worker.in_flight.append(task)
            parts += header(task.payload, task.number), task.payload
        if len(parts[-1]) <= _SMALL:
            parts = [b"".join(parts)]
        worker.send_buffer.extend(map(memoryview, parts))
        if not self._push(worker):
            self.blocked.append(worker)
            self._wake()

    def _push(self, worker: WorkerHandle) -> bool:
        """Send what the socket of *worker* takes; return whether nothing is left to be sent."""
        send_buffer = worker.send_buffer
        try:
            while send_buffer:
                sent = worker.sock.send(send_buffer[0])
                if sent < len(send_buffer[0]):
                    send_buffer[0] = send_buffer[0][sent:]
                    return False
                send_buffer.popleft()
        except ConnectionError:  # it has ended; its tasks go to others when its end is noticed
            send_buffer.clear()
        except OSError:  # its socket is full, or the system has no memory for more
            return False
        return True

    def has_begun(self, job: Job) -> bool:
        """Return whether a worker has begun *job*, a single call."""
        for worker in list(self.workers):
            for task in list(worker.in_flight):
                if task.job is job:
                    return bool(task.number <= worker.state.words.view[LAST_BEGUN])
        return job.has_run

    def withdraw(self, job: Job) -> bool:
        """Have *job*, a single call, not run; return False if it has begun, or is over."""
        with self._lock:
            for worker in self.workers:
                if any(task.job is job for task in worker.in_flight):
                    self._revoke(worker)  # what it has not begun is in the backlog again
                    break
            has_begun = job.has_run or any(
                task.job is job for worker in self.workers for task in worker.in_flight
            )
            withdrawn = not has_begun and not job.is_over
            job.is_over |= withdrawn  # from here on it is not sent: that is done under this lock
            self._feed_idle()
            return withdrawn

    def send_message(self, worker: WorkerHandle, message: bytes) -> None:
        """Send *worker* something that is no task."""
        with self._lock:
            worker.send_buffer += map(memoryview, (header(message, MESSAGE), message))
            if not self._push(worker):
                self.blocked.append(worker)

    def flush(self, worker: WorkerHandle) -> bool:
        """Send more of what did not fit into the socket of *worker*; return whether that was all."""
        with self._lock:
            if self._push(worker):
                last = worker.in_flight[-1] if worker.in_flight else None
                if last and last.number == worker.state.words.view[LAST_BEGUN]:
                    last.payload = b""  # no other worker will get it, and it may be large
                self._feed(worker)
            return not worker.send_buffer

    def balance(self) -> bool:
        """Revoke tasks that wait behind a long one; return whether an idle worker waits for more of them."""
        now = monotonic()
        if now < self._next_check:
            return bool(self._idle) and any(len(worker.in_flight) > 1 for worker in self.workers)
        with self._lock:
            self._next_check = now + _LONG
            waiting = [worker for worker in self.workers if len(worker.in_flight) > 1]
            for worker in waiting:
                begun = worker.state.words.view[LAST_BEGUN]
                if begun == worker.last_begun:
                    self._revoke(worker)
                worker.last_begun = begun
            self._feed_idle()
            return bool(waiting and self._idle)

    def _feed_idle(self) -> None:
        while self._idle and self._backlog:
            worker, _ = self._idle.popitem()
            self._feed(worker)

    def stop_after(self, worker: WorkerHandle, number: int) -> bool:
        """Have *worker* begin no task after the one numbered *number*; return False if it has begun one."""
        with self._lock:
            if not self._revoke(worker) or worker.state.words.view[LAST_BEGUN] != number:
                return False
            self._feed_idle()
            return True

    def _revoke(self, worker: WorkerHandle) -> bool:
        """Revoke what *worker* has not begun: all of it, because its shared words hold only one range."""
        state = worker.state
        if not state.lock.acquire(timeout=_LOCK_TIMEOUT):
            return False
        try:
            words = state.words.view
            begun = words[LAST_BEGUN]
            words[REVOKED_FROM] = begun + 1
            words[REVOKED_TO] = worker.number + 1
        finally:
            state.lock.release()
        self._requeue(worker, begun)
        worker.prefetch = 1
        if not worker.in_flight and worker.capacity(1) > 0:
            self._idle[worker] = None
        return True

    def _requeue(self, worker: WorkerHandle, begun: int) -> None:
        """Put the tasks of *worker* after the one numbered *begun* back into the backlog."""
        while worker.in_flight and worker.in_flight[-1].number > begun:
            task = worker.in_flight.pop()
            self._backlog.appendleft(task)
            self._bytes += len(task.payload)
        # It may have older ones, which were revoked from another worker.
        self._backlog = deque(sorted(self._backlog, key=attrgetter("sequence")))

    def remove(self, worker: WorkerHandle) -> list[Task]:
        """Forget *worker*, which has ended; return the tasks that it had begun and not answered."""
        with self._lock:
            self._idle.pop(worker, None)
            self.workers.remove(worker)
            self._requeue(worker, worker.state.words.view[LAST_BEGUN])
            for task in worker.in_flight:
                task.job.has_run = True
            self._feed_idle()
            worker.close()  # under the lock: nobody must write to a descriptor that is reused by then
            return list(worker.in_flight)

    def close(self) -> None:
        """Drop the backlog, and whatever comes."""
        with self._lock:
            self._closed = True
            self._backlog.clear()
            self._not_full.set()
