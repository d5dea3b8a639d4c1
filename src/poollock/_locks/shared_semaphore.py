"""A semaphore of the system, as `multiprocessing` makes it, and two views of it in each process."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from multiprocessing import synchronize
from multiprocessing.context import get_spawning_popen
from multiprocessing.util import Finalize
from typing import Any, Protocol, TypeAlias

if sys.platform == "win32":
    from poollock._backend.windows import semaphore_value

_multiprocessing: Any = import_module("_multiprocessing")  # which type checkers do not know
_SemLock = _multiprocessing.SemLock
_standard: Any = synchronize.SemLock

RECURSIVE, PLAIN = 0, 1  # the kinds of a _SemLock
MAXVALUE: int = _SemLock.SEM_VALUE_MAX

# Kind, greatest value, name, and the handles that Windows has instead of a name.
State: TypeAlias = tuple[int, int, str | None, tuple[int, ...]]

_TRIES = 100  # names, until one is free


class Semlock(Protocol):
    """A view of a semaphore: a ``_multiprocessing.SemLock``."""

    handle: int
    kind: int
    name: str  # None on Windows

    def acquire(self, block: bool = True, timeout: float | None = None, /) -> bool: ...  # noqa: FBT001, FBT002 - C's
    def release(self) -> None: ...
    def _count(self) -> int: ...
    def _is_mine(self) -> bool: ...
    def _is_zero(self) -> bool: ...
    def _get_value(self) -> int: ...
    def _after_fork(self) -> None: ...


class SharedSemaphore:
    """Two views of one semaphore.

    A view (a ``_multiprocessing.SemLock``) counts what this process has taken and released
    through it.  ``semlock`` is for whoever takes the lock and releases it, so that its count is
    what they have.  ``plain`` is for all else: above all for releasing what a dead process took,
    which a recursive view refuses and any view would subtract from its count.
    """

    __slots__ = ("__weakref__", "_maxvalue", "plain", "semlock")

    def __init__(self, semlock: Semlock, plain: Semlock, maxvalue: int) -> None:
        self.semlock, self.plain, self._maxvalue = semlock, plain, maxvalue

    @classmethod
    def create(cls, method: str, kind: int, value: int, maxvalue: int) -> SharedSemaphore:
        """Return a new semaphore for processes that start by *method*.

        Raises:
            OSError: The system has no semaphore left, or no place for one.
        """
        if sys.platform == "win32":
            from multiprocessing.reduction import duplicate  # noqa: PLC0415 - Windows has it alone

            semlock = _new_semlock(kind, value, maxvalue, unlink=True)
            plain = _SemLock._rebuild(duplicate(semlock.handle), PLAIN, maxvalue, None)
            return cls(semlock, plain, maxvalue)
        semlock = _new_semlock(kind, value, maxvalue, unlink=False)
        named = False
        try:
            made = cls(semlock, _SemLock._rebuild(0, PLAIN, maxvalue, semlock.name), maxvalue)
            if method != "fork":  # the other processes will open it by its name
                named = made._keep_name()
        finally:
            if not named:
                _multiprocessing.sem_unlink(semlock.name)
        return made

    def _keep_name(self) -> bool:
        """Have the name removed when this process drops the semaphore, or ends in whatever way."""
        from multiprocessing import resource_tracker  # noqa: PLC0415 - not on Windows

        resource_tracker.register(self.semlock.name, "semaphore")
        Finalize(self, _standard._cleanup, (self.semlock.name,), exitpriority=0)
        return True

    @classmethod
    def open(cls, state: State) -> SharedSemaphore:
        """Return the semaphore that another process has described by ``state()``.

        Raises:
            OSError: Its maker has dropped it.
        """
        kind, maxvalue, name, handles = state
        one, two = handles
        semlock = _SemLock._rebuild(one, kind, maxvalue, name)
        return cls(semlock, _SemLock._rebuild(two, PLAIN, maxvalue, name), maxvalue)

    def state(self) -> State:
        """Return what a process that is being started opens the semaphore from."""
        views = self.semlock, self.plain
        if sys.platform == "win32":
            popen: Any = get_spawning_popen()
            handles = tuple(popen.duplicate_for_child(view.handle) for view in views)
        else:
            handles = (0, 0)
        return self.semlock.kind, self._maxvalue, self.semlock.name, handles

    if sys.platform == "win32":

        def value(self) -> int:
            """Return how often it can be taken now."""
            return semaphore_value(self.plain.handle)

        def is_zero(self) -> bool:
            """Return whether it cannot be taken now."""
            return self.value() == 0
    else:

        def value(self) -> int:
            """Return how often it can be taken now.

            Raises:
                NotImplementedError: The system does not tell; macOS.
            """
            return self.semlock._get_value()

        def is_zero(self) -> bool:
            """Return whether it cannot be taken now; macOS takes it for a moment to find out."""
            return self.semlock._is_zero()

    def after_fork(self) -> None:
        """Count nothing of what the parent has taken."""
        self.semlock._after_fork()
        self.plain._after_fork()


def _new_semlock(kind: int, value: int, maxvalue: int, *, unlink: bool) -> Semlock:
    for _ in range(_TRIES):
        with suppress(FileExistsError):
            semlock: Semlock = _SemLock(kind, value, maxvalue, _standard._make_name(), unlink)
            return semlock
    raise FileExistsError("cannot find a free name for a semaphore")
