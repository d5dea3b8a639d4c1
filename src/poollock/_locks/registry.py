"""How a lock arrives in a process.

A lock is pickled in two ways.  While a process is being started it travels whole: the
semaphore and its shared words.  At any other time, in a task or a result, it travels as its
identity, and the receiving process answers with the lock that it already has.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

from poollock._backend.describe import describe
from poollock._errors import LockNotInstalledError

if TYPE_CHECKING:
    from .base import BaseLock

_Lock = TypeVar("_Lock", bound="BaseLock")

known: weakref.WeakValueDictionary[bytes, BaseLock] = weakref.WeakValueDictionary()  # of this process


def rebuilt(
    cls: type[_Lock], identity: bytes, name: str | None, parts: tuple[Any, ...]
) -> _Lock | _AbsentLock:
    """Return the lock that travelled whole, or what stands for it if its maker has ended."""
    here = known.get(identity)
    if isinstance(here, cls):
        return here
    if any(isinstance(part, _AbsentLock) for part in parts):
        return _AbsentLock(identity, name)
    lock = cls.__new__(cls)
    try:
        lock._assemble(parts)
    except OSError:  # its maker has ended, and its semaphore with it: only its users should mind
        return _AbsentLock(identity, name)
    lock._register(identity, name)
    return lock


def received(identity: bytes, name: str | None) -> BaseLock | _AbsentLock:
    """Answer an identity with this process's lock.

    One that is not here must not fail before it is used: an error while a task is unpickled
    kills the workers of the standard pools, one after the other.
    """
    here = known.get(identity)
    return _AbsentLock(identity, name) if here is None else here


@final
class _AbsentLock:
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
        return f"<absent lock {self._name!r}>" if self._name else "<absent lock, unnamed>"

    def __reduce__(self) -> tuple[Any, ...]:
        return received, (self._identity, self._name)


def every_lock() -> list[BaseLock]:
    """Return every lock alive in this process."""
    # valuerefs() copies in one step: another thread may make a lock meanwhile.
    return [lock for ref in known.valuerefs() if (lock := ref()) is not None]
