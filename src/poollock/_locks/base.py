"""What every lock has in common, and which of them a pool has put into this process."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from types import TracebackType
from typing import Any

from poollock._backend.describe import describe
from poollock._errors import LockNotInstalledError, LockTimeoutError
from .registry import every_lock, known, rebuilt, received

_installed: dict[str, BaseLock] = {}
_kept: list[BaseLock] = []  # what tasks may name by identity, and nothing else keeps alive


class BaseLock(ABC):
    """What every lock of a pool can do, wherever it lives: the type for annotations."""

    __slots__ = ("__weakref__", "_identity", "_is_part", "_is_pools", "_name")

    _identity: bytes
    _is_part: bool  # of another lock, which answers for it
    _is_pools: bool  # made by the pool whose it is
    _name: str | None

    @property
    def name(self) -> str | None:
        """The name that a pool gave this lock, if one did."""
        return self._name

    @property
    def label(self) -> str:
        """How a message names this lock."""
        return f"lock {self._name!r}" if self._name else f"an unnamed {type(self).__name__}"

    @abstractmethod
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 - multiprocessing's
        """Take the lock, waiting for it if *block* is true.

        Args:
            block: Whether to wait while another holds the lock.
            timeout: Seconds to wait at most; ``None`` waits without end.

        Returns:
            Whether the lock was taken.

        Raises:
            LockNotInstalledError: The lock never reached this process.
            ManagerDiedError: The lock's manager process has ended.
            PoolLockError: The process of the pool had the lock when it was killed.
        """

    @abstractmethod
    def release(self) -> None:
        """Give the lock back.

        Raises:
            ValueError: The lock is free.
            ManagerDiedError: The lock's manager process has ended.
        """

    @abstractmethod
    def locked(self) -> bool:
        """Return whether an ``acquire`` would have to wait.

        Raises:
            ManagerDiedError: The lock's manager process has ended.
        """

    @property
    @abstractmethod
    def holders(self) -> tuple[int, ...]:
        """The pids of the processes that hold the lock; more than one only for a Semaphore.

        Raises:
            ManagerDiedError: The lock's manager process has ended.
        """

    @property
    def holder(self) -> int:
        """The pid of the process that holds the lock, the first one for a Semaphore; 0 when free."""
        return next(iter(self.holders), 0)

    @property
    @abstractmethod
    def abandoned(self) -> bool:
        """Whether a process died holding the lock, so that what it protects may be half-written.

        Raises:
            ManagerDiedError: The lock's manager process has ended.
        """

    @abstractmethod
    def mark_consistent(self) -> None:
        """Clear ``abandoned``: what the lock protects has been looked at and is in order.

        Raises:
            ManagerDiedError: The lock's manager process has ended.
        """

    @contextmanager
    def hold(self, timeout: float | None = None) -> Generator[None, None, None]:
        """Hold the lock inside a ``with`` block, waiting *timeout* seconds for it at most.

        Args:
            timeout: Seconds to wait at most; ``None`` waits without end.

        Raises:
            LockTimeoutError: The lock was not free in time.
            LockNotInstalledError: The lock never reached this process.
            ManagerDiedError: The lock's manager process has ended.
            PoolLockError: The process of the pool had the lock when it was killed.
        """
        if not self.acquire(timeout=timeout):
            raise LockTimeoutError(self.label, self.holders, timeout or 0, describe())
        try:
            yield
        finally:
            self.release()

    def install(self, name: str | None = None) -> None:
        """Make this the running process's lock: what ``current_lock()`` and tasks find there.

        It is the initializer for somebody else's pool:
        ``ProcessPoolExecutor(initializer=lock.install)``.

        Args:
            name: What ``current_lock`` finds it by; ``None`` is the name that a pool gave it, else ``lock``.
        """
        _installed[name or self._name or "lock"] = self

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        name = f" {self._name!r}" if self._name else ""
        return f"<{type(self).__name__}{name} {self._state()}>"

    def _state(self) -> str:
        holders = ", ".join(map(str, self.holders))
        state = f"held by {holders}" if holders else "taken" if self.locked() else "free"
        return f"{state}, abandoned" if self.abandoned else state

    @property
    def only_by_fork(self) -> bool:
        """Whether a process can get this lock only by being forked."""
        return False

    @abstractmethod
    def _is_mine(self) -> bool:
        """Return whether the running thread has the lock."""

    def _is_held_here(self) -> bool:
        """Return whether this process has the lock."""
        return os.getpid() in self.holders

    @abstractmethod
    def _give_back(self) -> bool:
        """Release the lock if this process has it, however often; return whether it had.

        Another thread that is alive is not done: what it may have is left to it.
        """

    @abstractmethod
    def _reclaim(self, pid: int) -> bool:
        """Release the lock if the process *pid*, which is dead, has it; return whether it had."""

    def _is_unsigned(self) -> bool:
        """Return whether the lock is taken, and nobody has signed for it."""
        return False

    def _repair(self) -> None:  # noqa: B027 - a lock that is never unsigned needs none
        """Release the lock, which nobody has who is alive."""

    @abstractmethod
    def _assemble(self, parts: tuple[Any, ...]) -> None:
        """Build the lock from what ``_parts`` returned."""

    @abstractmethod
    def _parts(self) -> tuple[Any, ...]:
        """Return all that another process needs to have this lock; pickled while it starts."""

    def _register(self, identity: bytes | None = None, name: str | None = None) -> None:
        self._identity = identity or os.urandom(16)
        self._is_part = self._is_pools = False
        self._name = name
        known[self._identity] = self

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        if popen is None:
            return received, (self._identity, self._name)
        if self.only_by_fork:
            raise RuntimeError(
                f"{self.label} was made for the start method 'fork' and cannot be given to a process "
                f"that starts by {popen.method!r}; make it with context={popen.method!r}"
            )
        return rebuilt, (type(self), self._identity, self._name, self._parts())


def known_locks() -> list[BaseLock]:
    """Return every lock alive in this process, but for those that are parts of another."""
    return [lock for lock in every_lock() if not lock._is_part]


def title(lock: BaseLock) -> str:
    """Return the name of *lock*, or what a message calls one that has none."""
    return lock._name or lock.label


def install_locks(named: Mapping[str, BaseLock], others: Iterable[BaseLock]) -> None:
    """Make *named* what ``current_lock`` finds in this process, and keep *others* for its tasks."""
    _installed.clear()
    _installed.update(named)
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
        return find_lock(_installed, name)
    except KeyError:
        there = f"only {', '.join(map(repr, _installed))}" if _installed else "none"
        raise LockNotInstalledError(
            f"no lock {name!r} was put into {describe()} ({there}). current_lock() answers in a worker of "
            "locked_pool(), of manager_locked_pool(), or of a pool with initializer=lock.install; "
            "in the process that made the pool, use pool.lock"
        ) from None
