"""The locks of a cluster's pool: they live in the scheduler."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, final

from poollock._backend.describe import describe
from poollock._errors import LockTimeoutError, PoolLockError
from poollock._locks.base import BaseLock
from poollock._locks.rlock import RLock
from poollock._locks.semaphore import Semaphore
from poollock._typing import override

from ._lock_table import Message
from ._member import Holder
from ._session import Session, session_of


class RunningTask(NamedTuple):
    """The task that the running thread has.

    Attributes:
        owner: What it is called as the owner of a lock.
        description: What a message calls it.
    """

    owner: str
    description: str


running_task: ContextVar[RunningTask | None] = ContextVar("poollock_running_task", default=None)


class Grant:
    """That a thread of this process has a lock.

    Args:
        number: The number of the request that was granted.
        task: The task that the thread had; ``None`` for a thread that runs none.
    """

    __slots__ = ("depth", "number", "task", "thread")

    def __init__(self, number: int, task: RunningTask | None) -> None:
        self.number = number
        self.task = task
        self.thread = threading.get_ident()
        self.depth = 1


class ClusterLock(BaseLock):
    """A lock that lives in the scheduler of a Dask cluster; made by ``dask_locked_pool``.

    It can be sent to any worker, in a task of the pool or of Dask's own.  It is released in the process that
    has taken it.  When that process dies, the lock is free and marked as soon as the death is sure.
    """

    __slots__ = ("_cluster", "_full_name", "_permits")

    _cluster: str
    _full_name: str  # in the whole cluster
    _permits: int

    def __init__(self, cluster: str, pool: str, name: str, permits: int = 1) -> None:
        self._set_state((cluster, f"{pool}/{name}", permits))
        self._is_pools = True
        self._name = name

    @property
    @override
    def description(self) -> str:
        return f"lock {self._name!r}"

    def _ask(self, op: str) -> Message:
        return session_of(self._cluster).ask(op, name=self._full_name)

    def _request(self, timeout: float | None) -> Message:
        """Ask for the lock; if it is granted, record that."""
        session = session_of(self._cluster)
        task = running_task.get()
        owner, description = task or (str(threading.get_ident()), "")
        answer = session.ask(
            "acquire",
            name=self._full_name,
            permits=self._permits,
            timeout=None if timeout is None else max(0.0, float(timeout)),
            owner=owner,
            task=description,
        )
        if answer["ok"] is None:
            holder = Holder(*answer["out_of_reach"])
            raise PoolLockError(
                f"{self.description} is held by process {holder}, which is out of reach: nobody can tell "
                f"whether it is alive. If you know that it is not, pool.free({self._name!r}) frees the lock"
            )
        if answer["ok"]:
            try:
                session.grants.setdefault(self._full_name, []).append(Grant(answer["number"], task))
            except BaseException:  # a signal handler has raised
                session.tell("release", number=answer["number"])
                raise
        return answer

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        got: bool = self._request(timeout if block else 0)["ok"]
        return got

    def _own_grant(self, grants: list[Grant]) -> Grant | None:
        thread = threading.get_ident()
        for grant in reversed(grants):
            if grant.thread == thread:
                return grant
        return None

    @override
    def release(self) -> None:
        """Give the lock back.

        Raises:
            ValueError: No thread of this process has it.
            PoolLockError: The connection to the scheduler has ended.
        """
        session = session_of(self._cluster)
        grants = session.grants.get(self._full_name, [])
        grant = self._own_grant(grants) or next(reversed(grants), None)
        if grant is None:
            raise ValueError(f"{self.description} is not held by {describe()}, which releases it")
        self._give_back(session, grant)

    def _give_back(self, session: Session, grant: Grant) -> None:
        # In this order: if a signal handler raises in between, to release the lock again does nothing.
        session.tell("release", number=grant.number)
        with suppress(ValueError):  # another thread has done it, too
            session.grants[self._full_name].remove(grant)

    @override
    @contextmanager
    def hold(self, timeout: float | None = None) -> Generator[None, None, None]:
        """Hold the lock inside a ``with`` block, waiting *timeout* seconds for it at most.

        Args:
            timeout: Seconds to wait at most; ``None`` waits without end.

        Raises:
            LockTimeoutError: The lock was not free in time; the message says who had it.
            DeadlockError: The wait could never end.
            PoolLockError: The connection to the scheduler has ended, or the lock's holder is out of reach.
        """
        refusal = self._take_or_refusal(timeout)
        if refusal is not None:
            holders = tuple(Holder(*holder) for holder in refusal["holders"])
            raise LockTimeoutError(self.description, holders, timeout or 0, _describe_here())
        try:
            yield
        finally:
            self.release()

    def _take_or_refusal(self, timeout: float | None) -> Message | None:
        answer = self._request(timeout)
        return None if answer["ok"] else answer

    @override
    def locked(self) -> bool:
        return self._free_places() == 0

    def _free_places(self) -> int:
        free: int | None = self._ask("describe")["free"]
        return self._permits if free is None else free

    @property
    @override
    def holders(self) -> tuple[Holder, ...]:
        """The processes that hold the lock, each a ``Holder``; more than one only for a semaphore."""
        return tuple(Holder(*holder) for holder in self._ask("describe")["holders"])

    @property
    @override
    def abandoned(self) -> bool:
        abandoned: bool = self._ask("describe")["abandoned"]
        return abandoned

    @override
    def mark_consistent(self) -> None:
        session_of(self._cluster).tell("mark_consistent", name=self._full_name)

    @override
    def _state(self) -> str:
        try:
            return super()._state()
        except PoolLockError:
            return "of a cluster that is out of reach"

    @override
    def _is_held_here(self) -> bool:
        return bool(session_of(self._cluster).grants.get(self._full_name))

    @override
    def _release_if_held(self) -> bool:
        """Release what the running task has of the lock; return whether it had any."""
        session, task = session_of(self._cluster), running_task.get()
        held = [grant for grant in session.grants.get(self._full_name, []) if grant.task is task]
        for grant in held:
            self._give_back(session, grant)
        return bool(held)

    @override
    def _recover(self, pid: int) -> bool:
        return False  # the scheduler does that

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        self._cluster, self._full_name, self._permits = parts
        self._identity = self._full_name.encode()

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return self._cluster, self._full_name, self._permits

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        pool, _, name = self._full_name.partition("/")
        return type(self), (self._cluster, pool, name, self._permits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterLock) and self._get_state() == other._get_state()

    def __hash__(self) -> int:
        return hash(self._full_name)


@final
class DaskLock(ClusterLock):
    """A plain lock in the scheduler of a Dask cluster."""

    __slots__ = ()


@final
class DaskRLock(ClusterLock):
    """A lock in the scheduler of a Dask cluster that the thread which has it may take again."""

    __slots__ = ()

    @override
    def _request(self, timeout: float | None) -> Message:
        grant = self._own_grant(session_of(self._cluster).grants.get(self._full_name, []))
        if grant is None:
            return super()._request(timeout)
        grant.depth += 1
        return {"ok": True}

    @override
    def release(self) -> None:
        """Give the lock back, once for each time it was taken.

        Raises:
            AssertionError: Another thread or process holds the lock, or nobody, as with
                ``multiprocessing.RLock``.
            PoolLockError: The connection to the scheduler has ended.
        """
        session = session_of(self._cluster)
        grant = self._own_grant(session.grants.get(self._full_name, []))
        if grant is None:
            raise AssertionError(f"{self.description} is not held by this thread of {describe()}: {self!r}")
        if grant.depth > 1:
            grant.depth -= 1
        else:
            self._give_back(session, grant)


@final
class DaskSemaphore(ClusterLock):
    """A semaphore in the scheduler of a Dask cluster; released only where it was taken."""

    __slots__ = ()

    @property
    def value(self) -> int:
        """How many may hold the semaphore at once."""
        return self._permits

    def get_value(self) -> int:
        """Return how many more can take the semaphore now."""
        return self._free_places()


def make_lock(cluster: str, pool: str, name: str, like: BaseLock | None) -> ClusterLock:
    """Return a lock of a cluster.

    Args:
        cluster: The cluster's id.
        pool: What the pool is called in it.
        name: The name that the pool gives the lock.
        like: An RLock or a Semaphore to have one of its kind, or a lock of a cluster to have itself; anything
            else gives a plain lock.

    Raises:
        ValueError: The semaphore has no place at all: nobody could ever take it.
    """
    if isinstance(like, ClusterLock):
        return like
    if isinstance(like, Semaphore):
        if not like.value:
            raise ValueError(
                f"locks[{name!r}] is a semaphore of 0 places, which nobody could take on a cluster"
            )
        return DaskSemaphore(cluster, pool, name, like.value)
    if isinstance(like, RLock):
        return DaskRLock(cluster, pool, name)
    return DaskLock(cluster, pool, name)


def _describe_here() -> str:
    task = running_task.get()
    return f"{task.description} in {describe()}" if task else describe()
