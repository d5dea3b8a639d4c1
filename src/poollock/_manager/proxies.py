"""The locks of a manager_locked_pool: proxies to what its manager process serves."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from threading import get_ident
from typing import Any, TypeAlias, final

from poollock._backend.describe import describe
from poollock._backend.process import other_threads
from poollock._errors import ManagerDiedError
from poollock._locks.base import BaseLock
from poollock._locks.rlock import RLock
from poollock._locks.semaphore import Semaphore
from poollock._typing import override

from .connection import ManagerClient, take_client
from .server import LockManager

# The pid, the thread, and a number of its own: it names what is given back.
_Grant: TypeAlias = tuple[int, int, int]

_grants = itertools.count()

# Not every OSError: a TimeoutError may come from the user's own signal handler.
_UNREACHABLE = (ConnectionError, FileNotFoundError, EOFError)


class _Proxy(BaseLock):
    """A lock that lives in a manager process."""

    __slots__ = ("_address", "_authkey", "_granted", "_ident")

    _address: Any
    _authkey: bytes
    _ident: str
    _granted: list[tuple[_Grant, ManagerClient]]

    def __init__(self, manager: LockManager, value: int, *, bounded: bool) -> None:
        self._set_state(manager.create(value, bounded=bounded))
        self._register()

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        self._address, self._authkey, self._ident = parts
        self._granted = []

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return self._address, self._authkey, self._ident

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return take_client(self._address, self._authkey).call(self._ident, method, args)
        except _UNREACHABLE as error:
            raise self._died(error) from error.with_traceback(None)

    def _died(self, error: BaseException) -> ManagerDiedError:
        # Its cause goes without its frames, where pickle's buffer is: in a cycle of the user's, that
        # crashes CPython 3.12.1 when it is collected.
        return ManagerDiedError(
            f"{self.label} cannot be reached from {describe()}: its manager process has ended "
            f"({type(error).__name__}: {error}). It ends with its pool"
        )

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if timeout is not None:
            timeout = float(timeout)
        grant = os.getpid(), get_ident(), next(_grants)
        client, noted = None, list[None]()
        try:
            client = take_client(self._address, self._authkey, to_wait=True)
            taken = bool(client.call(self._ident, "acquire", (os.getpid(), grant, block, timeout)))
            if taken:
                noted.extend(map(self._granted.append, [(grant, client)]))  # in one step
        except BaseException as error:
            if client is not None and (_remove(self._granted, (grant, client)) or not noted):
                client.withdraw(grant)  # else another thread has given it back
            if isinstance(error, _UNREACHABLE):
                raise self._died(error) from error.with_traceback(None)
            raise
        return taken

    @override
    def release(self) -> None:
        me = get_ident()
        own_first = sorted(self._granted, key=lambda each: (each[0][1] == me, each[0][2]), reverse=True)
        if not any(map(self._release, own_first)):
            self._call("release", None)

    def _release(self, granted: tuple[_Grant, ManagerClient]) -> bool:
        """Give a grant back; return whether it was still to be given back."""
        grant, client = granted
        try:
            if not _remove(self._granted, granted):  # another thread has given it back
                return False
            self._call("release", grant)
        except BaseException:
            client.withdraw(grant)
            raise
        client.holds = None
        return True

    def _served_state(self) -> tuple[int, tuple[int, ...], bool]:
        state: tuple[int, tuple[int, ...], bool] = self._call("state")
        return state

    @override
    def locked(self) -> bool:
        return self._served_state()[0] == 0

    @property
    @override
    def holders(self) -> tuple[int, ...]:
        return self._served_state()[1]

    @property
    @override
    def abandoned(self) -> bool:
        return self._served_state()[2]

    @override
    def mark_consistent(self) -> None:
        self._call("mark_consistent")

    def _granted_here(self) -> list[tuple[_Grant, ManagerClient]]:
        # A forked worker has a copy of what its parent was granted.
        return [granted for granted in self._granted if granted[0][0] == os.getpid()]

    @override
    def _is_mine(self) -> bool:
        me = get_ident()
        return any(grant[1] == me for grant, _ in self._granted_here())

    @override
    def _is_held_here(self) -> bool:
        return bool(self._granted_here())

    @override
    def _release_if_held(self) -> bool:
        others = other_threads()
        given_back = False
        for granted in self._granted_here():
            if granted[0][1] not in others:
                with suppress(ManagerDiedError, ValueError):  # or another process has released it
                    given_back |= self._release(granted)
        return given_back

    @override
    def _recover(self, pid: int) -> bool:
        return bool(self._call("reclaim", pid))

    @override
    def _state(self) -> str:
        try:
            return super()._state()
        except ManagerDiedError:
            return "whose manager process has ended"


def _remove(granted: list[Any], one: Any) -> bool:
    try:
        granted.remove(one)
    except ValueError:
        return False
    return True


@final
class ManagerLock(_Proxy):
    """A plain lock in a manager process."""

    __slots__ = ()

    def __init__(self, manager: LockManager) -> None:
        super().__init__(manager, 1, bounded=True)


@final
class ManagerSemaphore(_Proxy):
    """A semaphore in a manager process."""

    __slots__ = ()

    def __init__(self, manager: LockManager, value: int) -> None:
        super().__init__(manager, value, bounded=False)

    def get_value(self) -> int:
        """Return how many more can take the semaphore now."""
        return self._served_state()[0]


def make_lock(manager: LockManager, like: BaseLock | None = None) -> BaseLock:
    """Return a new lock in the process of *manager*.

    Args:
        manager: The manager, started.
        like: An RLock or a Semaphore to have one of its kind, or a manager's lock to have itself;
            anything else gives a plain lock.
    """
    if isinstance(like, _Proxy):
        return like
    if isinstance(like, Semaphore):
        return ManagerSemaphore(manager, like.value)
    lock = ManagerLock(manager)
    return RLock._around(lock) if isinstance(like, RLock) else lock
