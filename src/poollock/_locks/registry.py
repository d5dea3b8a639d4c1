"""Which locks this process has: every one that is alive, and those that a pool has installed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from poollock._backend.describe import describe
from poollock._errors import LockNotInstalledError

if TYPE_CHECKING:
    from .base import BaseLock

registry: weakref.WeakValueDictionary[bytes, BaseLock] = weakref.WeakValueDictionary()  # by identity
installed: dict[str, BaseLock] = {}  # what current_lock() finds
_kept: list[BaseLock] = []  # locks that tasks may name by identity, and nothing else keeps alive


def every_lock() -> list[BaseLock]:
    """Return every lock alive in this process."""
    # valuerefs() copies in one step: another thread may make a lock meanwhile.
    return [lock for ref in registry.valuerefs() if (lock := ref()) is not None]


def install_locks(named: Mapping[str, BaseLock], others: Iterable[BaseLock]) -> None:
    """Make *named* what ``current_lock`` finds in this process, and keep *others* for its tasks."""
    installed.clear()
    installed.update(named)
    _kept[:] = others


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
    try:
        return find_lock(installed, name)
    except KeyError:
        there = f"only {', '.join(map(repr, installed))}" if installed else "none"
        raise LockNotInstalledError(
            f"no lock {name!r} was put into {describe()} ({there}). current_lock() answers in a worker of "
            "locked_pool(), of manager_locked_pool(), or of a pool with initializer=lock.install; "
            "in the process that made the pool, use pool.lock"
        ) from None
