"""The two ways to a pool whose workers share locks: by inheritance, or from a manager process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from ._locks.base import BaseLock
from ._pool.pool import LockedPool, LockNames, StrPath
from ._typing import override

if TYPE_CHECKING:
    from ._manager.manager import LockManager


class ManagerLockedPool(LockedPool):
    """A ``LockedPool`` whose locks live in a manager process; see :func:`manager_locked_pool`."""

    _manager: LockManager | None = None

    @override
    def _make_locks(self, requested: Mapping[str, BaseLock | None], ctx: BaseContext) -> dict[str, BaseLock]:
        from ._manager.manager import LockManager  # noqa: PLC0415 - it takes as long to import as all the rest
        from ._manager.proxies import make_lock  # noqa: PLC0415 - the same

        manager = LockManager(ctx)
        manager.start()
        self._manager = manager
        return {name: make_lock(manager, lock) for name, lock in requested.items()}

    @override
    def _end_locks(self) -> None:
        if self._manager is not None:
            self._manager.end()


def locked_pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasksperchild: int | None = None,
    *,
    locks: LockNames | Mapping[str, BaseLock] | None = None,
    context: BaseContext | str | None = None,
    task_timeout: float | None = None,
    trace: StrPath | None = None,
) -> LockedPool:
    """Return a pool whose workers share locks that they inherited when they started.

    A task function gets a lock by naming a parameter after it, by ``current_lock()``, or as an
    argument, ``partial(f, lock=pool.lock)``.

    Args:
        processes: How many workers; ``None`` is the number of processors.
        initializer: Called in each worker when it starts, with the locks in place.
        initargs: The arguments of *initializer*.
        maxtasksperchild: How many tasks a worker runs before another takes its place;
            ``None`` is no limit.
        locks: The names of the locks, each a plain ``Lock``; or a mapping of name to lock.
            Left out, there is one called ``lock``.
        context: A multiprocessing context, or the name of a start method; ``None`` is the
            default context.
        task_timeout: Seconds, from when a task begins in its worker.  One that takes longer is ended
            with its worker and raises ``TaskTimeoutError``; for ``map`` and its kin a task is a whole
            chunk.  ``None`` is no limit.
        trace: A file for a picture of the run: each task, each wait for a lock and each hold of one.
            Perfetto and Chrome open it, and ``python -m poollock trace`` sums it up.  What the file
            has is overwritten; it is whole once the pool has ended.  ``None`` makes none.

    Returns:
        The pool.  As a context manager it is terminated at the end of the block.

    Raises:
        TypeError: An argument is not of its kind.
        ValueError: A count is below 1 or a limit not above 0, a name is no identifier or stands
            twice, a lock was made for another start method, or another pool writes *trace*.
        OSError: A process or a lock cannot be made, or *trace* not be opened.
        BrokenPoolError: The workers are to import the main module, and it is in no file.
    """
    return LockedPool(
        processes,
        initializer,
        initargs,
        maxtasksperchild,
        context,
        locks=locks,
        task_timeout=task_timeout,
        trace=trace,
    )


def manager_locked_pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasksperchild: int | None = None,
    *,
    locks: LockNames | Mapping[str, BaseLock] | None = None,
    context: BaseContext | str | None = None,
    task_timeout: float | None = None,
    trace: StrPath | None = None,
) -> LockedPool:
    """Return the same pool as :func:`locked_pool`, with the locks in a manager process.

    The pool starts the process and ends it.  A lock given in *locks* says of which kind the
    manager's is: use the one in ``pool.locks``, not the one given.

    Args:
        processes: How many workers; ``None`` is the number of processors.
        initializer: Called in each worker when it starts, with the locks in place.
        initargs: The arguments of *initializer*.
        maxtasksperchild: How many tasks a worker runs before another takes its place;
            ``None`` is no limit.
        locks: The names of the locks, each a plain lock; or a mapping of name to lock.
            Left out, there is one called ``lock``.
        context: A multiprocessing context, or the name of a start method; ``None`` is the
            default context.
        task_timeout: Seconds, from when a task begins in its worker.  One that takes longer is ended
            with its worker and raises ``TaskTimeoutError``; for ``map`` and its kin a task is a whole
            chunk.  ``None`` is no limit.
        trace: A file for a picture of the run: each task, each wait for a lock and each hold of one.
            Perfetto and Chrome open it, and ``python -m poollock trace`` sums it up.  What the file
            has is overwritten; it is whole once the pool has ended.  ``None`` makes none.

    Returns:
        The pool.  As a context manager it is terminated at the end of the block.

    Raises:
        TypeError: An argument is not of its kind.
        ValueError: A count is below 1 or a limit not above 0, a name is no identifier or stands
            twice, a lock was made for another start method, or another pool writes *trace*.
        OSError: A process or a lock cannot be made, or *trace* not be opened.
        BrokenPoolError: The workers are to import the main module, and it is in no file.
    """
    return ManagerLockedPool(
        processes,
        initializer,
        initargs,
        maxtasksperchild,
        context,
        locks=locks,
        task_timeout=task_timeout,
        trace=trace,
    )


for _factory in (locked_pool, manager_locked_pool):
    _factory.__module__ = "poollock"
