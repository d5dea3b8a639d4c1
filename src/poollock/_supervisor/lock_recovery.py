"""The locks of a worker that died are freed; also the one that it had taken without saying so yet."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import active_children, parent_process

from poollock._errors import PoolLockError
from poollock._locks.base import BaseLock
from poollock._locks.registry import every_lock

from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter

INTERVAL = 0.02  # seconds between two checks
_PROOF = 1.0  # seconds
_PROOF_FOR_OTHERS = 10.0  # seconds; a process that is not the pool's is not ended first
_MIN_CHECKS = 20  # in that time: a busy lock can look ownerless in one or two of them

_REASON = "a worker that died may have had a lock, and which worker has it could not be told"


class LockRecovery:
    """Frees the locks of dead workers.

    A worker records that it owns a lock right after it took it, and clears that right before it
    releases it.  If it dies between the two, the lock stays taken without an owner on record, and cannot
    be told from one whose new owner is about to record it.  If it stays so, the pool ends its
    workers, frees the lock when the last is gone, and goes on.

    Another process that has the lock is not ended, and given more time to record it: there,
    another thread may keep the GIL from the one that has just taken the lock.

    Args:
        locks: The pool's own locks.
        starter: Starts the workers.
        workers: Those that there are.
    """

    def __init__(
        self, locks: Iterable[BaseLock], starter: WorkerStarter, workers: Iterable[WorkerHandle]
    ) -> None:
        self._locks = list(locks)
        self._starter = starter
        self._workers = workers
        self._suspects: dict[BaseLock, tuple[float, int]] = {}  # unrecorded since when, in how many checks
        self._ending_workers = False

    def recover(self, pid: int) -> tuple[str, ...]:
        """Free what the process *pid*, which has died, held; return the descriptions of these locks."""
        held: list[str] = []
        for lock in {*self._locks, *every_lock()}:
            # The manager may have ended, and then there is no lock to free; or another thread frees this one.
            with suppress(PoolLockError, OSError, ValueError):
                if lock._recover(pid):
                    held.append(lock.name or lock.description)
                if lock._is_unrecorded():
                    self._suspects.setdefault(lock, (0.0, 0))
        return tuple(sorted(held))

    def held_by(self, pid: int) -> tuple[str, ...]:
        """Return the descriptions of the locks that the process *pid*, which lives, holds now."""
        held: list[str] = []
        for lock in {*self._locks, *every_lock()}:
            with suppress(PoolLockError, OSError):
                if pid in lock.holders:
                    held.append(lock.name or lock.description)
        return tuple(sorted(held))

    @property
    def pending(self) -> bool:
        """Whether there is a lock that may have been lost: ``step`` is to be called every ``INTERVAL``."""
        return self._ending_workers or bool(self._suspects)

    def step(self, now: float) -> None:
        """Check the suspected locks, and do what it is time for."""
        lost = self._lost(now)
        if self._ending_workers:
            if self._starter.is_empty():
                for lock in lost:
                    self._force_release(lock)
                self._ending_workers = False
                self._starter.resume()
        elif lost:
            self._ending_workers = True
            self._starter.pause()
            for worker in self._workers:
                worker.kill(_REASON)

    def added(self, worker: WorkerHandle) -> None:
        """End a worker whose start had begun before the others were ended."""
        if self._ending_workers:
            worker.kill(_REASON)

    def _lost(self, now: float) -> list[BaseLock]:
        """Return the locks that were taken and unrecorded at every check, for long enough."""
        for lock, (since, checks) in list(self._suspects.items()):
            if lock._is_unrecorded():
                self._suspects[lock] = (since or now, checks + 1)
            else:
                del self._suspects[lock]
        proof = _PROOF_FOR_OTHERS if self._others_may_hold_locks() else _PROOF
        return [
            lock
            for lock, (since, checks) in self._suspects.items()
            if now - since > proof and checks > _MIN_CHECKS
        ]

    def _others_may_hold_locks(self) -> bool:
        """Return whether a process that is not the pool's may have a lock."""
        try:
            return parent_process() is not None or not {*active_children()} <= {*self._starter.processes}
        except AttributeError:  # before CPython 3.11, if another thread has just closed a process
            return True

    def _force_release(self, lock: BaseLock) -> None:
        """Free *lock*, which no worker has."""
        with suppress(ValueError):  # somebody else has freed it
            lock._force_release()
        del self._suspects[lock]
        if lock._is_unrecorded():  # a semaphore may have lost several permits
            self._suspects[lock] = (0.0, 0)
