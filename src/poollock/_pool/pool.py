"""LockedPool: a multiprocessing.Pool whose workers share locks."""

from __future__ import annotations

import multiprocessing.pool
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from queue import SimpleQueue
from threading import Thread, current_thread
from types import MappingProxyType
from typing import Any
from weakref import ref

from poollock._backend.context import resolve_context
from poollock._backend.describe import describe
from poollock._backend.process import ProcessStartError
from poollock._backend.sigint import DelayedKeyboardInterrupt, sigint_blocked
from poollock._checks import check_count
from poollock._locks.base import BaseLock
from poollock._locks.lock import Lock
from poollock._locks.registry import find_lock, known_locks
from poollock._supervisor.event_loop import EventLoop
from poollock._supervisor.lock_recovery import LockRecovery
from poollock._supervisor.worker_handle import WorkerHandle
from poollock._supervisor.worker_starter import WorkerStarter
from poollock._typing import override
from poollock._worker.main import InitArgs

from .arguments import can_reach, check_locks
from .methods import PoolMethods


class LockedPool(PoolMethods):
    """A ``multiprocessing.Pool`` whose workers share locks; its arguments are those of :func:`locked_pool`.

    Where a method raises or gives an error, it is one of these:

    - what the task itself raised;
    - ``WorkerDiedError``: the worker that ran the task has ended;
    - ``InitializerError``: the initializer raised;
    - ``BrokenPoolError``: the workers do not start, or the pool was ended first;
    - ``TypeError``: the function asks for a lock at a place that cannot be filled;
    - ``ValueError``: the pool is closed.
    """

    __module__ = "poollock"

    _ctx: BaseContext
    _pool: list[Any]
    _processes: int
    _state: str

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        locks: Iterable[str] | Mapping[str, BaseLock] | None = None,
    ) -> None:
        self._state = multiprocessing.pool.INIT  # for __del__, if an argument is wrong
        check_count("processes", processes)
        check_count("maxtasksperchild", maxtasksperchild, ValueError)  # as the standard pool
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        ctx = resolve_context(context)
        initargs = tuple(initargs)
        wanted = check_locks(locks, ctx)
        started = False
        try:
            with DelayedKeyboardInterrupt():
                with sigint_blocked(ctx):
                    self._locks = self._make_locks(wanted, ctx)
                for name, lock in self._locks.items():
                    lock._name = lock._name or name
                    lock._is_pools |= lock is not wanted[name]
                others = [_reference(lock) for lock in known_locks() if can_reach(lock, ctx)]
                setup = partial(_setup, self._locks, others, initializer, initargs)
                self._start(ctx, processes or _cpu_count(), maxtasksperchild, setup)
                started = True
        except BaseException:  # a Ctrl-C that was put off among them
            if started:
                self.terminate()
            else:
                self._end_locks()
            raise

    def _start(
        self, ctx: BaseContext, processes: int, maxtasksperchild: int | None, setup: Callable[[], InitArgs]
    ) -> None:
        crew = WorkerStarter(ctx, self.Process, processes, maxtasksperchild, setup)
        self._ctx = ctx
        self._processes = processes
        self._pool = crew.processes
        self._crew = crew
        self._cache: dict[int, Any] = {}
        self._taskqueue: SimpleQueue[Any] = SimpleQueue()
        reclaimer = LockRecovery(self._locks.values(), crew.processes)
        self._channel = channel = EventLoop(crew, processes, self._cache, reclaimer)
        workers: list[WorkerHandle] = []
        try:
            with sigint_blocked(ctx):
                workers, error = crew.fill()
            if isinstance(error, ProcessStartError):
                channel.start_failed(error)
            elif error is not None:
                try:
                    raise error
                finally:
                    del error  # which has this frame
            for worker in workers:
                channel.add(worker)
            self._worker_handler = Thread(target=channel.handle_workers, daemon=True)
            self._task_handler = _start_thread(channel.intake.run, self._taskqueue)
            # Which starts the first, so that this thread need not wait for that.
            self._result_handler = _start_thread(channel.run, self._worker_handler)
        except BaseException:  # not enough memory, say, for all the processes or threads
            crew.stop()
            self._taskqueue.put(None)
            _end_workers(workers)
            channel.abandon()
            raise
        self._terminate = Finalize(
            self,
            self._terminate_pool,
            args=(ref(self), self._taskqueue, channel),
            exitpriority=15,
        )
        self._state = multiprocessing.pool.RUN

    @property
    def lock(self) -> BaseLock:
        """The lock called ``lock``, else the only one.

        Raises:
            AttributeError: The pool has several locks, and none of that name.
        """
        try:
            return find_lock(self._locks, "lock")
        except KeyError:
            names = ", ".join(map(repr, self._locks)) or "none at all"
            raise AttributeError(f"this pool has no lock 'lock', but {names}: see pool.locks") from None

    @property
    def locks(self) -> Mapping[str, BaseLock]:
        """The pool's locks by name."""
        return MappingProxyType(self._locks)

    def _make_locks(self, wanted: Mapping[str, BaseLock | None], ctx: BaseContext) -> dict[str, BaseLock]:
        return {name: Lock(context=ctx) if lock is None else lock for name, lock in wanted.items()}

    def _end_locks(self) -> None:
        """End what the locks live in, if it is the pool's."""

    @override
    def close(self) -> None:
        """Take no more tasks; the workers end when those that there are have been done."""
        if self._state == multiprocessing.pool.RUN:
            self._state = multiprocessing.pool.CLOSE
            self._taskqueue.put(None)

    @override
    def terminate(self) -> None:
        """End the workers at once, whatever they are doing, and what the locks live in."""
        self._channel.terminate()  # also if Ctrl-C comes before that does it
        self._state = multiprocessing.pool.TERMINATE
        try:
            self._terminate()
        finally:
            self._end_locks()

    @override
    def join(self) -> None:
        """Wait for the workers to end, after ``close`` or ``terminate``.

        Raises:
            ValueError: The pool is still running.
            RuntimeError: This is called by a callback, which the workers' end waits for.
        """
        if self._state == multiprocessing.pool.RUN:
            raise ValueError("Pool is still running")
        if self._state == multiprocessing.pool.CLOSE and self._channel.in_callback:
            raise RuntimeError("a callback cannot join its pool, which waits for the callback first")
        self._result_handler.join()
        self._end_locks()

    # What multiprocessing.pool.Pool does inside.

    def _check_running(self) -> None:
        standard: Any = super()
        standard._check_running()
        if not self._result_handler.is_alive() and not self._channel.over:  # no thread outlives a fork
            raise ValueError(f"this pool belongs to the process that made it, not to {describe()}")

    def _repopulate_pool(self) -> None:
        self._crew.ask()

    @classmethod
    def _terminate_pool(cls, of: ref[Any], taskqueue: SimpleQueue[Any], channel: EventLoop) -> None:
        channel.terminate()
        taskqueue.put(None)
        pool = of()
        if pool is None:  # the garbage collector calls this, in any thread, which may have any lock
            return
        if current_thread() not in (pool._result_handler, pool._task_handler, pool._worker_handler):
            pool._result_handler.join()


def _reference(lock: BaseLock) -> Callable[[], BaseLock | None]:
    """Return what gives *lock*, and keeps it unless it is another pool's: each would keep all before it."""
    return ref(lock) if lock._is_pools else lambda: lock


def _setup(
    locks: Mapping[str, BaseLock], others: Iterable[Callable[[], BaseLock | None]], *initializer: Any
) -> InitArgs:
    return locks, [lock for other in others if (lock := other()) is not None], *initializer


def _cpu_count() -> int:
    # What the process may use from Python 3.13 on, as for multiprocessing.pool.Pool.
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _start_thread(target: Callable[..., None], *args: Any) -> Thread:
    thread = Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _end_workers(workers: Iterable[WorkerHandle]) -> None:
    for worker in workers:
        worker.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
