"""Finds tasks whose waits for locks can never end, and has one of them told."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from poollock._errors import LockWait, PoolLockError
from poollock._locks import waiting
from poollock._locks.registry import registry
from poollock._worker.wait_reporter import VICTIM, WAIT

from .deadlock import Needs, find_ring
from .results import ApplyResult, waiting_threads

if TYPE_CHECKING:
    from .dispatcher import Dispatcher
    from .worker_handle import WorkerHandle

INTERVAL = 0.25  # seconds between two checks, while a worker waits for a lock


class _Wait(NamedTuple):
    number: int  # among the waits of its worker
    lock: bytes  # its identity
    description: str
    since: float


class DeadlockDetector:
    """Knows which workers wait for which lock, as far as a wait has lasted for a second.

    Args:
        dispatcher: Knows the workers, and which task each has.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._waits: dict[WorkerHandle, _Wait] = {}
        self._suspects: dict[int, int] = {}  # the ring found at the last check: by pid, the wait's number
        self._next_check = 0.0

    @property
    def pending(self) -> bool:
        """Whether ``step`` is to be called every ``INTERVAL``."""
        return bool(self._waits)

    def begin(self, worker: WorkerHandle, message: memoryview) -> None:
        """Take in what a worker says of a wait that has lasted."""
        number, lock, description = pickle.loads(message)
        since = monotonic() - waiting.FIRST_INTERVAL  # a worker reports a wait that has lasted for so long
        self._waits[worker] = _Wait(number, lock, description, since)

    def step(self, now: float) -> tuple[WorkerHandle, str] | None:
        """Look for a ring of waits, if it is time; tell the task that began to wait last.

        A ring counts if it was there at the check before, with the same waits: one look at the owners of
        several locks is not made at one instant.

        Returns:
            The worker whose task was told, and what a message calls the lock that it waits for.
        """
        if now < self._next_check:
            return None
        self._next_check = now + INTERVAL
        self._drop_ended()
        told = None
        needs = self._needs()
        ring = find_ring(needs)
        workers = [worker for worker in self._waits if worker.pid in ring]
        found = {worker.pid: self._waits[worker].number for worker in workers}
        if found and found == self._suspects:
            victim = max(workers, key=lambda worker: self._waits[worker].since)
            wait = self._waits[victim]
            if victim.state.words.view[VICTIM] != wait.number:  # else it knows, and has not run since
                told = victim, wait.description
                workers.remove(victim)
                self._tell(victim, [victim, *workers], os.getpid() if os.getpid() in ring else 0)
            found = {}
        self._suspects = found
        return told

    def waits(self) -> list[LockWait]:
        """Return the waits that last, the oldest first; any thread may call this."""
        waits = sorted(self._waits.copy().items(), key=lambda each: each[1].since)
        return [self._describe(worker, wait) for worker, wait in waits if _lasts(worker, wait)]

    def _drop_ended(self) -> None:
        living = set(self._dispatcher.workers)
        for worker, wait in list(self._waits.items()):
            if worker not in living or not _lasts(worker, wait):
                del self._waits[worker]

    def _needs(self) -> dict[int, Needs]:
        """Return what each process needs that waits; one that can go on is not in it."""
        needs: dict[int, Needs] = {}
        for worker, wait in self._waits.items():
            holders = _holders(wait.lock)
            if holders:
                needs[worker.pid] = Needs(frozenset(holders))
        wanted = frozenset[int]().union(*(need.processes for need in needs.values()))
        if os.getpid() in wanted and (own := self._own_needs()) is not None:
            needs[os.getpid()] = own
        return needs

    def _own_needs(self) -> Needs | None:
        """Return what the pool's process needs, if all that its threads do is to wait for a result.

        Which of its threads has the lock is not known: with two threads of the user, one may go on.
        """
        users = [thread for thread in threading.enumerate() if not thread.name.startswith("poollock-")]
        if len(users) != 1:
            return None
        result = waiting_threads.get(users[0].ident or 0)
        first_tasks = [(worker.pid, worker.first_task) for worker in self._dispatcher.workers]
        running = {pid: task.job for pid, task in first_tasks if task is not None}
        own = frozenset(pid for pid, job in running.items() if job.result is result)
        if own:
            return Needs(own, all_of_them=isinstance(result, ApplyResult))
        # Its tasks have not begun: any worker may run them that gets free.
        return Needs(frozenset(running)) if result is not None else None

    def _tell(self, victim: WorkerHandle, ring: Sequence[WorkerHandle], pool_pid: int) -> None:
        wait = self._waits[victim]
        waits = tuple(self._describe(worker, self._waits[worker]) for worker in ring)
        self._dispatcher.send_message(victim, pickle.dumps((wait.number, waits, pool_pid)))
        victim.state.words.view[VICTIM] = wait.number

    def _describe(self, worker: WorkerHandle, wait: _Wait) -> LockWait:
        task = worker.first_task
        what = task.describe() if task is not None else "a task"
        return LockWait(what, worker.pid, wait.description, _holders(wait.lock), monotonic() - wait.since)


def _lasts(worker: WorkerHandle, wait: _Wait) -> bool:
    return worker.state.words.view[WAIT] == wait.number


def _holders(identity: bytes) -> tuple[int, ...]:
    """Return who has a lock; nobody, too, if it is not known here, or about to be free."""
    lock = registry.get(identity)
    try:
        return lock.holders if lock is not None and lock.locked() else ()
    except PoolLockError:  # the manager has ended: whoever waits learns that itself
        return ()
