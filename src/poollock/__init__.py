"""Locks, and one log file, shared by the workers of a ``multiprocessing`` pool."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._base import BaseLock, current_lock
from ._errors import (
    InitializerError,
    LockNotInstalledError,
    LockTimeoutError,
    ManagerDiedError,
    PoolLockError,
    WorkerDiedError,
)
from ._factories import locked_pool, manager_locked_pool
from ._locks import Lock
from ._pool import LockedPool
from ._rlock import RLock
from ._semaphore import Semaphore

__all__ = [
    "BaseLock",
    "BrokenPoolError",
    "InitializerError",
    "Lock",
    "LockNotInstalledError",
    "LockTimeoutError",
    "LockedLogHandler",
    "LockedLogWriter",
    "LockedPool",
    "ManagerDiedError",
    "PoolLockError",
    "RLock",
    "Semaphore",
    "WorkerDiedError",
    "current_lock",
    "locked_pool",
    "manager_locked_pool",
]

# Imported when they are wanted: not every program wants them, nor what they stand on.
_LATER = {
    "BrokenPoolError": "._broken",
    "LockedLogHandler": "._loghandler",
    "LockedLogWriter": "._logwriter",
}

# A traceback, a repr and a pickle say where a user finds the name.
for _public in [globals()[_name] for _name in __all__ if _name not in _LATER]:
    _public.__module__ = __name__


if TYPE_CHECKING:
    from ._broken import BrokenPoolError
    from ._loghandler import LockedLogHandler
    from ._logwriter import LockedLogWriter
else:

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATER[name], __name__), name)
