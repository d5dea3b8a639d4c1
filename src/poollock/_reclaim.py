"""What happens to the locks of a worker that died."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ._base import BaseLock, known_locks, title
from ._errors import PoolLockError

INTERVAL = 0.02  # seconds between looks
_PROOF = 1.0  # seconds
_LOOKS = 20  # in that time at least: by chance, one or two may find a busy lock unsigned


class Reclaimer:
    """Frees the locks of dead workers.

    A worker signs for a lock right after it took it, and signs off right before it gives it
    back.  If it dies between the two, the lock stays taken and nobody has signed.  Then it is
    not known who has it, until every process that may have it has ended.

    Args:
        locks: The pool's own locks.
    """

    def __init__(self, locks: Iterable[BaseLock]) -> None:
        self._locks = list(locks)
        self._unsigned: dict[BaseLock, tuple[float, int]] = {}  # since when, in how many looks

    def reclaim(self, pid: int) -> tuple[str, ...]:
        """Free what the process *pid*, which has died, held; return the names."""
        held: list[str] = []
        for lock in {*self._locks, *known_locks()}:
            # A manager that has ended has no lock to free; somebody else may be freeing this one.
            with suppress(PoolLockError, OSError, ValueError):
                if lock._reclaim(pid):
                    held.append(title(lock))
                if lock._is_unsigned():
                    self._unsigned.setdefault(lock, (0.0, 0))
        return tuple(sorted(held))

    @property
    def waits(self) -> bool:
        """Whether there is a lock that may have been lost."""
        return bool(self._unsigned)

    def lost(self, now: float) -> list[BaseLock]:
        """Look again; return the locks for which nobody has signed all the time, for a second."""
        for lock, (since, looks) in list(self._unsigned.items()):
            if lock._is_unsigned():
                self._unsigned[lock] = (since or now, looks + 1)
            else:
                del self._unsigned[lock]
        return [
            lock for lock, (since, looks) in self._unsigned.items() if now - since > _PROOF and looks > _LOOKS
        ]

    def repair(self, lock: BaseLock) -> None:
        """Free *lock*, which nobody who is alive has."""
        with suppress(ValueError):  # somebody else has freed it
            lock._repair()
        del self._unsigned[lock]
        if lock._is_unsigned():  # only a part of it was repaired
            self._unsigned[lock] = (0.0, 0)
