"""Locks, and one log file, shared by the workers of a ``multiprocessing`` pool."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._errors import (
    DeadlockError,
    InitializerError,
    LockNotInstalledError,
    LockTimeoutError,
    LockWait,
    ManagerDiedError,
    PoolLockError,
    TaskTimeoutError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from ._broken import BrokenPoolError
    from ._factories import locked_pool, manager_locked_pool
    from ._locks.base import BaseLock
    from ._locks.current import current_lock
    from ._locks.lock import Lock
    from ._locks.rlock import RLock
    from ._locks.semaphore import Semaphore
    from ._log.handler import LockedLogHandler
    from ._log.writer import LockedLogWriter
    from ._pool.pool import LockedPool

__version__ = "0.1.0"  # the only place that has it: the package and the documentation ask for it

__all__ = [
    "BaseLock",
    "BrokenPoolError",
    "DeadlockError",
    "InitializerError",
    "Lock",
    "LockNotInstalledError",
    "LockTimeoutError",
    "LockWait",
    "LockedLogHandler",
    "LockedLogWriter",
    "LockedPool",
    "ManagerDiedError",
    "PoolLockError",
    "RLock",
    "Semaphore",
    "TaskTimeoutError",
    "WorkerDiedError",
    "current_lock",
    "locked_pool",
    "manager_locked_pool",
]

# Imported when they are wanted: not every program wants them, nor what they stand on.
_LATER = {
    "BaseLock": "._locks.base",
    "BrokenPoolError": "._broken",
    "Lock": "._locks.lock",
    "LockedLogHandler": "._log.handler",
    "LockedLogWriter": "._log.writer",
    "LockedPool": "._pool.pool",
    "RLock": "._locks.rlock",
    "Semaphore": "._locks.semaphore",
    "current_lock": "._locks.current",
    "locked_pool": "._factories",
    "manager_locked_pool": "._factories",
}

# A traceback, a repr and a pickle say where a user finds the name.
for _public in [globals()[_name] for _name in __all__ if _name not in _LATER]:
    _public.__module__ = __name__


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        public = globals()[name] = getattr(import_module(_LATER[name], __name__), name)
        return public
