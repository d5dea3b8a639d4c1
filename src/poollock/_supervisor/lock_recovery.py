"""What happens to the locks of a worker that died."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import active_children, parent_process
from typing import Any

from poollock._errors import PoolLockError
from poollock._locks.base import BaseLock, title
from poollock._locks.registry import known_locks

from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter

INTERVAL = 0.02  # seconds between looks
_PROOF = 1.0  # seconds
_PROOF_FOR_OTHERS = 10.0  # seconds; one that is not the pool's is not ended first
_LOOKS = 20  # in that time at least: by chance, one or two may find a busy lock unsigned


class LockRecovery:
    """Frees the locks of dead workers.

    A worker signs for a lock right after it took it, and signs off right before it gives it
    back.  If it dies between the two, the lock stays taken and nobody has signed.  Then it is
    not known who has it, until every process that may have it has ended.

    A process that is not the pool's is given more time to sign: there, another thread may keep
    the GIL from the one that has just taken the lock.

    Args:
        locks: The pool's own locks.
        crew: The processes of its workers.
    """

    def __init__(self, locks: Iterable[BaseLock], crew: Iterable[Any]) -> None:
        self._locks = list(locks)
        self._crew = crew
        self._unsigned: dict[BaseLock, tuple[float, int]] = {}  # since when, in how many looks

    def reclaim(self, pid: int) -> tuple[str, ...]:
        """Free what the process *pid*, which has died, held; return the names."""
        held: list[str] = []
        for lock in {*self._locks, *known_locks()}:
            # A manager that has ended has no lock to free; somebody else may be freeing this one.
            with suppress(PoolLockError, OSError, ValueError):
                if lock._recover(pid):
                    held.append(title(lock))
                if lock._is_unrecorded():
                    self._unsigned.setdefault(lock, (0.0, 0))
        return tuple(sorted(held))

    @property
    def waits(self) -> bool:
        """Whether there is a lock that may have been lost."""
        return bool(self._unsigned)

    def lost(self, now: float) -> list[BaseLock]:
        """Look again; return the locks that were taken and unsigned at every look, for long enough."""
        for lock, (since, looks) in list(self._unsigned.items()):
            if lock._is_unrecorded():
                self._unsigned[lock] = (since or now, looks + 1)
            else:
                del self._unsigned[lock]
        proof = _PROOF_FOR_OTHERS if self._has_others() else _PROOF
        return [
            lock for lock, (since, looks) in self._unsigned.items() if now - since > proof and looks > _LOOKS
        ]

    def _has_others(self) -> bool:
        """Return whether a process that is not the pool's may have a lock."""
        try:
            return parent_process() is not None or not {*active_children()} <= {*self._crew}
        except AttributeError:  # before CPython 3.11: another thread has closed one meanwhile
            return True

    def repair(self, lock: BaseLock) -> None:
        """Free *lock*, which no worker has."""
        with suppress(ValueError):  # somebody else has freed it
            lock._force_release()
        del self._unsigned[lock]
        if lock._is_unrecorded():  # only a part of it was repaired
            self._unsigned[lock] = (0.0, 0)


class Purge:
    """Frees a lost lock, once no worker is left that might have it.

    Args:
        reclaimer: Knows the lost locks.
        crew: StartupFailures the workers.
        workers: Those that there are.
    """

    def __init__(self, reclaimer: LockRecovery, crew: WorkerStarter, workers: Iterable[WorkerHandle]) -> None:
        self._reclaimer = reclaimer
        self._crew = crew
        self._workers = workers
        self.is_on = False  # no worker is to be left

    @property
    def waits(self) -> bool:
        """Whether there is something to look at."""
        return self.is_on or self._reclaimer.waits

    def look(self, now: float) -> None:
        """Do the next step, if it is time."""
        lost = self._reclaimer.lost(now)
        if self.is_on:
            if self._crew.is_empty():
                for lock in lost:
                    self._reclaimer.repair(lock)
                self.is_on = False
                self._crew.resume()
        elif lost:
            self.is_on = True
            self._crew.pause()
            for worker in self._workers:
                sacrifice(worker)


def sacrifice(worker: WorkerHandle) -> None:
    """Kill a worker that might have the lost lock."""
    worker.doomed = "one that died may have had a lock, and nobody else could be told from it"
    worker.process.kill()
