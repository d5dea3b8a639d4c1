"""The locks of a manager_locked_pool: proxies to what its manager process serves."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import Any, final

from ._base import BaseLock
from ._errors import ManagerDiedError
from ._manager import LockManager, ManagerClient, reserve_client
from ._process import describe
from ._rlock import RLock
from ._semaphore import Semaphore
from ._typing import override

# Each grant has a number of its own, with the pid: it names what is given back.
_grants = itertools.count()


class _Proxy(BaseLock):
    """A lock that lives in a manager process."""

    __slots__ = ("_address", "_authkey", "_granted", "_ident")

    _address: Any
    _authkey: bytes
    _ident: str
    _granted: list[tuple[tuple[int, int], ManagerClient]]

    def __init__(self, manager: LockManager, value: int, *, bounded: bool) -> None:
        self._assemble(manager.create(value, bounded=bounded))
        self._register()

    @override
    def _assemble(self, parts: tuple[Any, ...]) -> None:
        self._address, self._authkey, self._ident = parts
        self._granted = []

    @override
    def _parts(self) -> tuple[Any, ...]:
        return self._address, self._authkey, self._ident

    def _call(self, method: str, *args: Any) -> tuple[Any, ManagerClient]:
        try:
            client = reserve_client(self._address, self._authkey, to_wait=method == "acquire")
            return client.call(self._ident, method, args), client
        except (ConnectionError, FileNotFoundError, EOFError) as error:
            # Not every OSError: a TimeoutError may come from the user's own signal handler.
            raise ManagerDiedError(
                f"{self.label} cannot be reached from {describe()}: its manager process has ended "
                f"({type(error).__name__}: {error}). It ends with its pool"
            ) from error

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if timeout is not None:
            timeout = float(timeout)
        grant = next(_grants)
        taken, client = self._call("acquire", os.getpid(), (os.getpid(), grant), block, timeout)
        if taken:
            self._granted.append(((os.getpid(), grant), client))
        return bool(taken)

    @override
    def release(self) -> None:
        grant, client = self._granted.pop() if self._granted else (None, None)
        try:
            self._call("release", grant)
        except BaseException:
            if client is not None:
                client.close()  # so that the manager takes the lock back
            raise
        if client is not None:
            client.holds = False

    def _served_state(self) -> tuple[int, tuple[int, ...], bool]:
        state: tuple[int, tuple[int, ...], bool]
        state, _ = self._call("state")
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

    @override
    def _give_back(self) -> bool:
        # A forked worker has a copy of what its parent was granted: each grant begins with a pid.
        mine = [grant for (pid, grant), _ in self._granted if pid == os.getpid()]
        with suppress(ManagerDiedError):
            for _ in mine:
                self.release()
        return bool(mine)

    @override
    def _reclaim(self, pid: int) -> bool:
        return bool(self._call("reclaim", pid)[0])

    @override
    def _state(self) -> str:
        try:
            return super()._state()
        except ManagerDiedError:
            return "whose manager process has ended"


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
