"""Which worker gets which task.

A worker whose tasks are tiny gets some ahead, so that it need not wait for the pool between
them.  None waits behind a long one for it: what a worker has not begun is taken back when
another has nothing to do, or when the task before it turns out to be long.  A worker begins
its tasks in the order in which they came, so that none waits behind a younger one either.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING

from poollock._worker.framing import header
from poollock._worker.main import BEGUN, VOID_FROM, VOID_TO

from .task import Task

if TYPE_CHECKING:
    from .worker_handle import WorkerHandle

_AHEAD = 64  # tasks that a worker has at most, the one that it runs among them
_OVERHEAD = 0.00001  # seconds that the least task takes a worker
_TINY = 250  # microseconds; after a longer task, none is sent ahead
_ANSWERS = 1 << 16  # bytes that a worker can send, safely, before it has to wait for the pool
_LONG = 0.005  # seconds after which nothing is left waiting behind a task
_SMALL = 1 << 14  # bytes; a larger task is sent only to a worker that has nothing else to do
_BACKLOG = 192  # tasks that are pickled before it is their turn, and four more for each worker
_BURST = 64  # tasks that are pickled in one go, once there is room again
_BACKLOG_BYTES = 1 << 22
_CLAIMS = 0.01  # seconds to wait for a worker that is just signing for a task


class Dispatcher:
    """Hands the tasks to the workers.

    Args:
        size: How many workers there should be.
        wake: Called when there is another worker in `blocked`.
    """

    def __init__(self, size: int, wake: Callable[[], object]) -> None:
        self.workers: list[WorkerHandle] = []  # those that may get tasks
        self.blocked: deque[WorkerHandle] = deque()  # whose pipes did not take all of a task
        self._wake = wake
        self._closed = False
        self._lock = threading.Lock()
        self._backlog: deque[Task] = deque()
        self._bytes = 0  # of the backlog
        self._turns = 0
        self._limit = _BACKLOG + 4 * size
        self._enough = self._limit - _BURST
        self._spread = size
        self._idle: dict[WorkerHandle, None] = {}
        self._room = threading.Event()
        self._look_at = 0.0  # when to look next for tasks that wait behind a long one

    def put(self, task: Task) -> None:
        """Hand out *task*, or keep it until its turn; wait if too many are kept."""
        with self._lock:
            if self._closed:
                return
            self._turns += 1
            task.turn = self._turns
            if self._idle:
                worker, _ = self._idle.popitem()
                self._send(worker, [task])
                return
            self._backlog.append(task)
            self._bytes += len(task.payload)
            if len(self._backlog) < self._limit and self._bytes < _BACKLOG_BYTES:
                return
            self._room.clear()
        self._room.wait()

    def answered(self, worker: WorkerHandle, answers: list[tuple[int, memoryview]]) -> list[Task]:
        """Return the tasks that *worker* has done, and give it others.

        Args:
            worker: The worker.
            answers: For each of them, the microseconds that it took, and its outcome.
        """
        tasks = [worker.running.popleft() for _ in answers]
        if tasks:
            worker.done += len(tasks)
            micros, payload = answers[-1]
            most = min(_AHEAD, _ANSWERS // (len(payload) + 1))
            worker.ahead = max(1, min(worker.ahead * 2, most)) if micros < _TINY else 1
        with self._lock:
            self._feed(worker)
        return tasks

    def slack(self) -> float:
        """Return for how many seconds the workers that have tiny tasks have enough of them."""
        if any(worker.reader.is_full for worker in self.workers):  # there are answers that wait
            return 0.0
        ahead = [count for worker in self.workers if (count := len(worker.running)) > 1]
        return min(ahead, default=0) * _OVERHEAD

    def is_empty(self) -> bool:
        """Return whether there is no task left that was put."""
        with self._lock:
            return not self._backlog and not any(worker.running for worker in self.workers)

    def _feed(self, worker: WorkerHandle) -> None:
        room = worker.room(min(worker.ahead, 1 + len(self._backlog) // self._spread))
        tasks: list[Task] = []
        while len(tasks) < room and self._backlog:
            task = self._backlog[0]
            large = len(task.payload) > _SMALL
            before = tasks or worker.running
            if before and (large or task.turn < before[-1].turn):
                break
            tasks.append(self._backlog.popleft())
            self._bytes -= len(task.payload)
            if large:
                break
        if tasks:
            self._send(worker, tasks)
            if len(self._backlog) <= self._enough and self._bytes <= _BACKLOG_BYTES // 2:
                self._room.set()
        elif room and not worker.running:
            self._idle[worker] = None

    def _send(self, worker: WorkerHandle, tasks: list[Task]) -> None:
        parts: list[bytes] = []
        for task in tasks:
            worker.number += 1
            task.number = worker.number
            worker.running.append(task)
            parts += header(task.payload, task.number), task.payload
        if len(parts[-1]) <= _SMALL:
            parts = [b"".join(parts)]
        worker.outgoing.extend(map(memoryview, parts))
        if not self._push(worker):
            self.blocked.append(worker)
            self._wake()

    def _push(self, worker: WorkerHandle) -> bool:
        """Send what the pipe of *worker* takes; return whether nothing is left to be sent."""
        outgoing = worker.outgoing
        try:
            while outgoing:
                sent = worker.sock.send(outgoing[0])
                if sent < len(outgoing[0]):
                    outgoing[0] = outgoing[0][sent:]
                    return False
                outgoing.popleft()
        except ConnectionError:  # it has ended: whoever sees that gives its tasks to others
            outgoing.clear()
        except OSError:  # its pipe is full, or the system has no memory for more
            return False
        return True

    def go_on(self, worker: WorkerHandle) -> bool:
        """Send more of what did not fit into the pipe of *worker*; return whether that was all."""
        with self._lock:
            if self._push(worker):
                last = worker.running[-1] if worker.running else None
                if last and last.number == worker.slot.words.view[BEGUN]:
                    last.payload = b""  # nobody else will get it, and it may be large
                self._feed(worker)
            return not worker.outgoing

    def balance(self) -> bool:
        """Let no task wait behind a long one; return whether to look again soon, for a worker is idle."""
        now = monotonic()
        if now < self._look_at:
            return bool(self._idle) and any(len(worker.running) > 1 for worker in self.workers)
        with self._lock:
            self._look_at = now + _LONG
            waiting = [worker for worker in self.workers if len(worker.running) > 1]
            for worker in waiting:
                begun = worker.slot.words.view[BEGUN]
                if begun == worker.seen:
                    self._take_back(worker)
                worker.seen = begun
            self._feed_idle()
            return bool(waiting and self._idle)

    def _feed_idle(self) -> None:
        while self._idle and self._backlog:
            worker, _ = self._idle.popitem()
            self._feed(worker)

    def _take_back(self, worker: WorkerHandle) -> None:
        """Take back what *worker* has not begun, all of it: it knows one range of numbers to pass over."""
        slot = worker.slot
        if not slot.claims.acquire(timeout=_CLAIMS):
            return
        try:
            words = slot.words.view
            begun = words[BEGUN]
            words[VOID_FROM] = begun + 1
            words[VOID_TO] = worker.number + 1
        finally:
            slot.claims.release()
        self._return(worker, begun)
        worker.ahead = 1
        if not worker.running and worker.room(1) > 0:
            self._idle[worker] = None

    def _return(self, worker: WorkerHandle, begun: int) -> None:
        """Keep again, until their turn, the tasks of *worker* after the one numbered *begun*."""
        while worker.running and worker.running[-1].number > begun:
            task = worker.running.pop()
            self._backlog.appendleft(task)
            self._bytes += len(task.payload)
        # Those of another worker, returned before, may be older.
        self._backlog = deque(sorted(self._backlog, key=attrgetter("turn")))

    def remove(self, worker: WorkerHandle) -> list[Task]:
        """Forget *worker*, which has ended; return what it had begun, as far as it has not been answered."""
        with self._lock:
            self._idle.pop(worker, None)
            self.workers.remove(worker)
            self._return(worker, worker.slot.words.view[BEGUN])
            self._feed_idle()
            worker.close()  # under the lock: nobody is to write to a descriptor that is reused by then
            return list(worker.running)

    def close(self) -> None:
        """Drop what is kept, and whatever comes."""
        with self._lock:
            self._closed = True
            self._backlog.clear()
            self._room.set()
