"""Which locks this process has: every one that is alive, and those that a pool has installed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import BaseLock

registry: weakref.WeakValueDictionary[bytes, BaseLock] = weakref.WeakValueDictionary()  # by identity
installed: dict[str, BaseLock] = {}  # what current_lock() finds
# What it finds instead in a process that runs tasks of several pools at a time, in threads.
task_locks: ContextVar[Mapping[str, BaseLock]] = ContextVar("poollock_task_locks")
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
