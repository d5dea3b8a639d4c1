"""How a task function finds a lock of its pool by name."""

from __future__ import annotations

from collections.abc import Mapping

from poollock._backend.describe import describe
from poollock._errors import LockNotInstalledError

from .base import BaseLock
from .registry import installed, task_locks


def find_lock(locks: Mapping[str, BaseLock], name: str) -> BaseLock:
    """Return the lock called *name*; for ``"lock"``, the only one if none is called so.

    Raises:
        KeyError: There is no such lock.
    """
    if name == "lock" and len(locks) == 1:
        return next(iter(locks.values()))
    return locks[name]


def current_lock(name: str = "lock") -> BaseLock:
    """Return the lock of the pool whose worker this is.

    Args:
        name: Which of the pool's locks; left out, the one called ``lock``, else the only one.

    Returns:
        The lock.

    Raises:
        LockNotInstalledError: No pool put a lock of that name into this process.
    """
    locks = task_locks.get(installed)
    try:
        return find_lock(locks, name)
    except KeyError:
        there = f"only {', '.join(map(repr, locks))}" if locks else "none"
        raise LockNotInstalledError(
            f"no lock {name!r} was put into {describe()} ({there}). current_lock() answers in a worker of "
            "locked_pool(), of manager_locked_pool(), or of a pool with initializer=lock.install; "
            "in the process that made the pool, use pool.lock"
        ) from None


current_lock.__module__ = "poollock"
