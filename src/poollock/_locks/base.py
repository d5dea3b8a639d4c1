"""What every lock has in common, and how it arrives in a process.

A lock is pickled in two ways.  While a process is being started it travels whole: the
semaphore and its shared words.  At any other time, in a task or a result, it travels as its
identity, and the receiving process answers with the lock that it already has.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from types import TracebackType
from typing import Any, NoReturn, TypeVar, final

from poollock._backend.describe import describe
from poollock._errors import LockNotInstalledError, LockTimeoutError

from .registry import installed, registry

_Lock = TypeVar("_Lock", bound="BaseLock")


class BaseLock(ABC):
    """What every lock of a pool can do, wherever it lives: the type for annotations."""

    __module__ = "poollock"

    __slots__ = ("__weakref__", "_identity", "_is_pools", "_name")

    _is_recursive = False  # whether a thread that has it may take it again

    _identity: bytes
    _is_pools: bool  # True if a pool created this lock, rather than the user
    _name: str | None

    @property
    def name(self) -> str | None:
        """The name that a pool gave this lock, if one did."""
        return self._name

    @property
    def description(self) -> str:
        """How a message names this lock: ``lock 'log'``, or ``an unnamed Lock``."""
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
            raise LockTimeoutError(self.description, self.holders, timeout or 0, describe())
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
        installed[name or self._name or "lock"] = self

    def __enter__(self) -> bool:
        """Take the lock, as ``acquire()`` does."""
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None:
        """Give the lock back, as ``release()`` does."""
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

    def _is_held_here(self) -> bool:
        """Return whether this process has the lock."""
        return os.getpid() in self.holders

    @abstractmethod
    def _release_if_held(self) -> bool:
        """Release the lock if this process has it, however often; return whether it had.

        Another thread that is alive is not done: what it may have is left to it.
        """

    @abstractmethod
    def _recover(self, pid: int) -> bool:
        """Release the lock if the process *pid*, which is dead, has it; return whether it had."""

    def _is_unrecorded(self) -> bool:
        """Return whether the lock is taken, and it is not recorded by whom."""
        return False

    def _force_release(self) -> None:  # noqa: B027 - a lock that always records its holder needs none
        """Release the lock, which is taken, but by no process that is alive, and mark it as abandoned."""

    @abstractmethod
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        """Build the lock from what ``_get_state`` returned."""

    @abstractmethod
    def _get_state(self) -> tuple[Any, ...]:
        """Return all that another process needs to have this lock; pickled while it starts."""

    def _register(self, identity: bytes | None = None, name: str | None = None) -> None:
        self._identity = identity or os.urandom(16)
        self._is_pools = False
        self._name = name
        registry[self._identity] = self

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        if popen is None:
            return received, (self._identity, self._name)
        if self.only_by_fork:
            raise RuntimeError(
                f"{self.description} was made for the start method 'fork' and cannot be given to a process "
                f"that starts by {popen.method!r}; make it with context={popen.method!r}"
            )
        return rebuilt, (type(self), self._identity, self._name, self._get_state())


def rebuilt(
    cls: type[_Lock], identity: bytes, name: str | None, parts: tuple[Any, ...]
) -> _Lock | UninstalledLock:
    """Return the lock that travelled whole, or what stands for it if its maker has ended."""
    here = registry.get(identity)
    if isinstance(here, cls):
        return here
    lock = cls.__new__(cls)
    try:
        lock._set_state(parts)
    except OSError:  # its maker has ended, and its semaphore with it: only its users should mind
        return UninstalledLock(identity, name)
    lock._register(identity, name)
    return lock


def received(identity: bytes, name: str | None) -> BaseLock | UninstalledLock:
    """Answer an identity with this process's lock.

    One that is not here must not fail before it is used: an error while a task is unpickled
    kills the workers of the standard pools, one after the other.
    """
    here = registry.get(identity)
    return UninstalledLock(identity, name) if here is None else here


@final
class UninstalledLock:
    """What stands for a lock that this process does not have: it fails when it is used."""

    def __init__(self, identity: bytes, name: str | None) -> None:
        self._identity = identity
        self._name = name

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise LockNotInstalledError(
            f"{self!r} is used in {describe()}, which it never reached. A locked_pool has its own locks and "
            "those made before it, for its own start method: make the lock before the pool, or pass it in "
            "locks=. For any other pool, pass initializer=lock.install"
        )

    def __enter__(self) -> bool:
        return bool(self.acquire())

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<uninstalled lock {self._name!r}>" if self._name else "<uninstalled lock, unnamed>"

    def __reduce__(self) -> tuple[Any, ...]:
        return received, (self._identity, self._name)
