"""Locks, and one log file, shared by the workers of a ``multiprocessing`` pool."""

from ._base import BaseLock, current_lock
from ._errors import LockNotInstalledError, LockTimeoutError, ManagerDiedError, PoolLockError
from ._locks import Lock, RLock, Semaphore
from ._logwriter import LockedLogWriter
from ._pool import LockedPool, locked_pool, manager_locked_pool

__all__ = [
    "BaseLock",
    "Lock",
    "LockNotInstalledError",
    "LockTimeoutError",
    "LockedLogWriter",
    "LockedPool",
    "ManagerDiedError",
    "PoolLockError",
    "RLock",
    "Semaphore",
    "current_lock",
    "locked_pool",
    "manager_locked_pool",
]

# A traceback, a repr and a pickle say where a user finds the name.
for _public in [globals()[_name] for _name in __all__]:
    _public.__module__ = __name__
