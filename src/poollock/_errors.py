"""The errors of poollock; each survives pickling with its fields."""

from __future__ import annotations

from typing import Any


class PoolLockError(Exception):
    """The base of every error of poollock."""


class LockNotInstalledError(PoolLockError, RuntimeError):
    """A lock is used in a process that it never reached."""


class LockTimeoutError(PoolLockError, TimeoutError):
    """A lock was not free in time.

    Attributes:
        lock: What the message calls the lock: ``lock 'log'``.
        holders: The pids of the processes that held it when the wait ended.
        timeout: The seconds waited.
    """

    def __init__(self, lock: str, holders: tuple[int, ...], timeout: float, waiter: str) -> None:
        held = f"held by process {', '.join(map(str, holders))}" if holders else "free again by now"
        super().__init__(f"{waiter} waited {timeout:g} s for {lock}, which is {held}")
        self.lock = lock
        self.holders = holders
        self.timeout = timeout
        self._waiter = waiter

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.lock, self.holders, self.timeout, self._waiter)


class ManagerDiedError(PoolLockError, ConnectionError):
    """The manager process that a lock lives in has ended."""
