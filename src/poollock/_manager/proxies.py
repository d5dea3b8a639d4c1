"""The locks of a manager_locked_pool: proxies to what its manager process serves."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, NoReturn, final

from poollock._backend.describe import describe
from poollock._backend.process import other_threads
from poollock._errors import ManagerDiedError
from poollock._locks import waiting
from poollock._locks.base import BaseLock
from poollock._locks.rlock import RLock
from poollock._locks.semaphore import Semaphore
from poollock._typing import override

from .connection import Connections, LockConnection, LockToken, ThreadConnections
from .manager import LockManager
from .protocol import ACQUIRE, YES

# Not every OSError: a TimeoutError may come from the user's own signal handler.
_UNREACHABLE = (ConnectionError, FileNotFoundError, EOFError)

_TOO_OFTEN = "semaphore or lock released too many times"


class _Grant:
    """That a thread of this process has the lock.

    Attributes:
        connections: The connections of that thread.
        connection: The one of them that carries the grant, and nothing else meanwhile.
        depth: How often the thread has taken the lock; more than once only for an RLock.
    """

    __slots__ = ("connection", "connections", "depth")

    def __init__(self, connections: ThreadConnections, connection: LockConnection) -> None:
        self.connections = connections
        self.connection = connection
        self.depth = 1


class _Proxy(BaseLock):
    """A lock that lives in a manager process.

    A signal handler may raise between any two steps, and another thread may release what this one
    takes.  So whatever goes wrong in a call, its connection is closed, and the manager takes back
    what it has granted through it: at most what this very call asked for.
    """

    __slots__ = ("_connections", "_grants", "_token")

    _connections: Connections
    _grants: dict[_Grant, bool]  # the oldest first; the values are True
    _token: LockToken

    _bounded = True  # it is an error to release it more often than it was taken

    def __init__(self, manager: LockManager, value: int = 1) -> None:
        self._set_state(manager.create(value, bounded=self._bounded))
        self._register()

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        address, authkey, number = parts
        self._token = address, authkey, number
        self._connections = Connections(self._token)
        self._grants = {}

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return self._token

    def _call(self, request: bytes) -> bytes:
        """Return the manager's answer to *request*; if that is a grant, note it."""
        own = self._connections.own
        grant = None
        try:
            grant = _Grant(own, own.checkout() or self._revoked_connection() or LockConnection(self._token))
            grant.connection.send(request)
            if request == ACQUIRE + b"inf":
                waiting.wait(self, grant.connection.receive)
            else:
                grant.connection.receive()
            answer = grant.connection.answer
            if answer == YES and request.startswith(ACQUIRE):
                self._grants[grant] = True
                return answer
        except BaseException as error:
            if grant is not None:
                self._grants.pop(grant, None)
                grant.connection.close()
            if isinstance(error, _UNREACHABLE):
                raise self._died(error) from error.with_traceback(None)
            raise
        own.checkin(grant.connection)
        return answer

    def _revoked_connection(self) -> LockConnection | None:
        """Return a connection whose grant another process has released, if there is one.

        Without that, a process that only takes, while another one releases, would open more and more.
        """
        for grant in self._held():
            if grant.connection.is_revoked() and self._grants.pop(grant, False):
                return grant.connection
        return None

    def _died(self, error: BaseException) -> ManagerDiedError:
        # Its cause goes without its frames, where pickle's buffer is: in a cycle of the user's, that
        # crashes CPython 3.12.1 when it is collected.
        return ManagerDiedError(
            f"{self.description} cannot be reached from {describe()}: its manager process has ended "
            f"({type(error).__name__}: {error}). It ends with its pool"
        )

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        seconds = math.inf if timeout is None else float(timeout)
        return self._call(ACQUIRE + b"%r" % (seconds if block else 0)) == YES

    @override
    def release(self) -> None:
        own = self._connections.own
        grants = [*self._grants.copy()][::-1]  # the newest first
        grants.sort(key=lambda grant: grant.connections is not own)
        for grant in grants:
            if self._give_back(grant):
                return
        if self._call(b"release_any") != YES:  # another process has taken it, as multiprocessing allows
            raise ValueError(_TOO_OFTEN)

    def _give_back(self, grant: _Grant) -> bool:
        """Give *grant* back; return False if there is nothing to give back.

        Raises:
            ManagerDiedError: The manager process has ended.
            ValueError: Another process has released the lock.
        """
        claimed = list[bool]()
        try:
            # In one step: of two threads one does it, and it knows so if a signal handler raises next.
            claimed.extend(map(self._grants.pop, [grant], [False]))
            if claimed == [False] or grant.connection.closed:  # another thread does it; or it is the parent's
                return False
            if self._bounded and grant.connection.is_revoked():
                raise ValueError(_TOO_OFTEN)  # noqa: TRY301 - the connection is of no more use
            grant.connection.release()
        except BaseException as error:
            if claimed == [True]:
                grant.connection.close()
            if isinstance(error, _UNREACHABLE):
                raise self._died(error) from error.with_traceback(None)
            raise
        grant.connections.checkin(grant.connection)
        return True

    @property
    def _semlock(self) -> NoReturn:
        """What a ``multiprocessing.Condition`` would use."""
        raise TypeError(
            f"{self.description} is in a manager process, where a multiprocessing.Condition cannot use it: "
            "give that a Lock or an RLock of poollock or of multiprocessing"
        )

    def _served_state(self) -> tuple[int, bool, tuple[int, ...]]:
        free, abandoned, *holders = map(int, self._call(b"state").split())
        return free, bool(abandoned), tuple(holders)

    @override
    def locked(self) -> bool:
        return self._served_state()[0] == 0

    @property
    @override
    def holders(self) -> tuple[int, ...]:
        return self._served_state()[2]

    @property
    @override
    def abandoned(self) -> bool:
        return self._served_state()[1]

    @override
    def mark_consistent(self) -> None:
        self._call(b"mark_consistent")

    def _held(self) -> list[_Grant]:
        """Return the grants of this process: a forked one has closed the connections of its parent."""
        return [grant for grant in self._grants.copy() if not grant.connection.closed]

    def _own_grant(self) -> _Grant | None:
        own = self._connections.own
        for grant in self._held():
            if grant.connections is own:
                return grant
        return None

    @override
    def _is_held_here(self) -> bool:
        return bool(self._held())

    @override
    def _release_if_held(self) -> bool:
        held = self._held()
        if not held:
            return False
        others = other_threads()
        given_back = False
        for grant in held:
            if grant.connections.thread not in others:
                with suppress(ManagerDiedError, ValueError):  # or another process has released it
                    given_back |= self._give_back(grant)
        return given_back

    @override
    def _recover(self, pid: int) -> bool:
        return self._call(b"recover %d" % pid) == YES

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


@final
class ManagerRLock(_Proxy):
    """A lock in a manager process that the thread which has it may take again."""

    __slots__ = ()

    _is_recursive = True

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        grant = self._own_grant()
        if grant is None:
            return super().acquire(block, timeout)
        grant.depth += 1  # no signal handler runs between this and the return
        return True

    @override
    def release(self) -> None:
        """Give the lock back, once for each time it was taken.

        Raises:
            AssertionError: Another thread or process holds the lock, or nobody, as with
                ``multiprocessing.RLock``.
            ManagerDiedError: The lock's manager process has ended.
        """
        grant = self._own_grant()
        if grant is None:
            raise AssertionError(f"{self.description} is not held by this thread of {describe()}: {self!r}")
        if grant.depth > 1:
            grant.depth -= 1
        else:
            self._give_back(grant)


@final
class ManagerSemaphore(_Proxy):
    """A semaphore in a manager process."""

    __slots__ = ()

    _bounded = False

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
    if isinstance(like, RLock):
        return ManagerRLock(manager)
    return ManagerLock(manager)
