"""The pool of a Dask cluster: LockedPool's methods, and what is different."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import uuid
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from multiprocessing.pool import MapResult
from multiprocessing.util import Finalize
from typing import Any
from weakref import ref

from poollock._locks.base import BaseLock
from poollock._pool.arguments import check_chunksize, check_locks
from poollock._pool.pool import LockedPool, LockNames, _finalize
from poollock._supervisor import results
from poollock._supervisor.jobs import is_at_hand
from poollock._typing import override

from ._dask import Client, get_client
from ._locks import ClusterLock, make_lock
from ._nanny_plugin import ConfirmDeathPlugin
from ._scheduler_plugin import LockPlugin
from ._session import client_session
from ._supervisor import ClusterSupervisor

# How many tasks of an imap are out, at most, if the iterable may be endless and there is no buffersize.
_BUFFER = 1000


class DaskLockedPool(LockedPool):
    """A ``LockedPool`` whose tasks run on a Dask cluster, and whose locks live in its scheduler.

    Its arguments are those of :func:`dask_locked_pool`.  Where a method raises or gives an error, it is one
    of those of ``LockedPool``; a ``WorkerDiedError`` is a ``DaskWorkerDiedError``.
    """

    __module__ = "poollock.dask"

    def __init__(
        self,
        client: Any = None,
        *,
        locks: LockNames | Mapping[str, BaseLock] | None = None,
    ) -> None:
        self._state: str = multiprocessing.pool.INIT  # for __del__, if an argument is wrong
        requested = check_locks(locks, _any_context())
        self._own_client: Any = None
        self._client = self._get_client(client)
        try:
            self._client.register_plugin(LockPlugin())
            self._client.register_plugin(ConfirmDeathPlugin())
            session = client_session(self._client)
            name = uuid.uuid4().hex
            self._locks: dict[str, BaseLock] = {
                each: make_lock(session.cluster, name, each, like) for each, like in requested.items()
            }
            end = _ClientEnd(self._own_client, session)
            self._supervisor = supervisor = ClusterSupervisor(self._client, session, name, self._locks, end)
        except BaseException:
            if self._own_client is not None:
                self._own_client.close()
            raise
        self._terminate = Finalize(self, _finalize, args=(ref(self), supervisor), exitpriority=15)
        self._state = multiprocessing.pool.RUN

    def _get_client(self, client: Any) -> Any:
        if client is None:
            client = get_client()
        elif not isinstance(client, Client):
            client = self._own_client = Client(client, set_as_default=False)
        if client.asynchronous:
            raise TypeError("the client must not be asynchronous: the pool's methods wait for it")
        return client

    @property
    def client(self) -> Any:
        """The Dask client that the pool uses."""
        return self._client

    def free(self, name: str = "lock") -> bool:
        """Free a lock whose holder is out of reach, because you know that it is dead.

        Nobody can tell whether a worker is alive if its host is silent, and its nanny does not answer either.
        Then its locks stay taken, and whoever waits for one gets a ``PoolLockError``.  If the holder is alive
        after all, two will have the lock.

        Args:
            name: The name of the lock.

        Returns:
            Whether there was such a holder; a holder that is in reach keeps its lock.
        """
        lock: ClusterLock = self.locks[name]
        freed: bool = self._client.sync(self._client.scheduler.poollock_free, name=lock._full_name)
        return freed

    @override
    def _map(
        self,
        how: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        result: results.MapResult,
    ) -> MapResult[Any]:
        if chunksize is None:  # it is made of how many tasks can run at once, which may change
            self._processes = sum(self._client.nthreads().values()) or 1
        return super()._map(how, func, iterable, chunksize, result)

    @override
    def _imap(
        self,
        iterator: type[results.ResultIterator],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        buffersize: int | None,
    ) -> Any:
        if buffersize is None and not is_at_hand(iterable):
            # One machine's pool would take all of it, too; but there it fills that machine's memory alone.
            buffersize = _BUFFER * check_chunksize(1 if chunksize is None else chunksize)
        return super()._imap(iterator, func, iterable, chunksize, buffersize)

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._client!r}>"


class _ClientEnd:
    """Closes the client that a pool has made for itself."""

    def __init__(self, client: Any, session: Any) -> None:
        self._client = client
        self._session = session

    def __call__(self) -> None:
        if self._client is not None:
            self._session.close()
            self._client.close()


def _any_context() -> BaseContext:
    """Return a context that all locks can be used with: those given only say of which kind the pool's are."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else methods[0])


def dask_locked_pool(
    client: Any = None,
    *,
    locks: LockNames | Mapping[str, BaseLock] | None = None,
) -> DaskLockedPool:
    """Return a pool like that of ``locked_pool``, whose tasks run on a Dask cluster.

    A task function gets its locks as on one machine.  A lock given in *locks* says of which kind the
    cluster's is: use the one in ``pool.locks``, not the one given.

    Args:
        client: A ``distributed.Client``, a cluster, or the address of a scheduler; ``None`` is the current
            client.
        locks: The names of the locks, each a plain lock; or a mapping of name to lock.
            Left out, there is one called ``lock``.

    Returns:
        The pool.  As a context manager it is terminated at the end of the block.  Tasks that have not begun
        are dropped then; one that has begun goes on, and has its locks until it ends, because Dask cannot
        stop it.

    Raises:
        TypeError: An argument is not of its kind.
        ValueError: A name is no identifier or stands twice, there is no current client, or a semaphore has
            0 places.
        PoolLockError: The scheduler has another version of poollock, or none.
        OSError: There is no scheduler at that address.
    """
    return DaskLockedPool(client, locks=locks)


dask_locked_pool.__module__ = "poollock.dask"
