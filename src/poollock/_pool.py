"""LockedPool: a multiprocessing.Pool whose workers share locks."""

from __future__ import annotations

import multiprocessing.pool
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from queue import SimpleQueue
from threading import Thread, current_thread
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from ._arguments import can_reach, check_count, check_locks
from ._base import BaseLock, find_lock, known_locks
from ._binding import asks_for, bind_locks
from ._channel import Channel
from ._crew import Crew, Worker
from ._interrupts import interrupts_deferred, interrupts_held
from ._locks import Lock
from ._outcomes import reported
from ._process import resolve_context
from ._reclaim import Reclaimer
from ._standard import helper_reraises_exception
from ._typing import override
from ._worker import Setup

if TYPE_CHECKING:
    from multiprocessing.pool import AsyncResult, IMapIterator, MapResult

_T = TypeVar("_T")
_R = TypeVar("_R")


class LockedPool(multiprocessing.pool.Pool):
    """A ``multiprocessing.Pool`` whose workers share locks; see :func:`locked_pool`."""

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
            with interrupts_deferred():
                with interrupts_held(ctx):
                    self._locks = self._make_locks(wanted, ctx)
                for name, lock in self._locks.items():
                    lock._name = lock._name or name
                others = [lock for lock in known_locks() if can_reach(lock, ctx)]
                setup = Setup(self._locks, others, initializer, initargs)
                self._start(ctx, processes or _cpu_count(), maxtasksperchild, setup)
                started = True
        except BaseException:  # a Ctrl-C that was put off among them
            if started:
                self.terminate()
            else:
                self._end_locks()
            raise

    def _start(self, ctx: BaseContext, processes: int, maxtasksperchild: int | None, setup: Setup) -> None:
        crew = Crew(ctx, self.Process, processes, maxtasksperchild, setup)
        self._ctx = ctx
        self._processes = processes
        self._pool = crew.processes
        self._crew = crew
        self._cache: dict[int, Any] = {}
        self._taskqueue: SimpleQueue[Any] = SimpleQueue()
        self._channel = channel = Channel(crew, processes, self._cache, Reclaimer(self._locks.values()))
        with interrupts_held(ctx):
            workers, error = crew.fill()
        try:
            if error is not None:
                raise error  # noqa: TRY301 - what was started is ended as for the others
            self._worker_handler = _start_thread(channel.handle_workers)
            self._task_handler = _start_thread(channel.handle_tasks, self._taskqueue)
            self._result_handler = _start_thread(channel.run)
        except BaseException:  # not enough memory, say, for all the processes or threads
            crew.stop()
            self._taskqueue.put(None)
            _end_workers(workers)
            channel.abandon()
            raise
        for worker in workers:
            channel.add(worker)
        self._terminate = Finalize(
            self,
            self._terminate_pool,
            args=(self._taskqueue, channel, self._result_handler, self._task_handler, self._worker_handler),
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
        """
        if self._state == multiprocessing.pool.RUN:
            raise ValueError("Pool is still running")
        self._result_handler.join()
        self._end_locks()

    # What multiprocessing.pool.Pool does inside.

    def _repopulate_pool(self) -> None:
        self._crew.ask()

    @classmethod
    def _terminate_pool(
        cls, taskqueue: SimpleQueue[Any], channel: Channel, result_handler: Thread, *handlers: Thread
    ) -> None:
        channel.terminate()
        taskqueue.put(None)
        # The garbage collector may call this in any thread, which the result handler may wait for.
        if current_thread() not in (result_handler, *handlers):
            result_handler.join()

    def _guarded_task_generation(self, result_job: int, func: Any, iterable: Iterable[Any]) -> Iterator[Any]:
        index = -1
        try:
            for index, item in enumerate(iterable):
                yield result_job, index, func, (item,), {}
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - sys.exit() among them: whoever waits is told
            yield result_job, index + 1, helper_reraises_exception, (error,), {}

    def _map_async(
        self,
        func: Any,
        iterable: Any,
        mapper: Any,
        chunksize: int | None = None,
        *callbacks: Any,
        **kwds: Any,
    ) -> Any:
        standard: Any = super()
        if chunksize is None:
            # By the number that there should be: while workers are replaced, there may be none.
            iterable = iterable if isinstance(iterable, Sized) else list(iterable)
            chunksize = -(-len(iterable) // (self._processes * 4))
        return self._unless_ended(
            standard._map_async(func, iterable, mapper, chunksize, *map(reported, callbacks), **kwds)
        )

    def _unless_ended(self, result: _R) -> _R:
        if self._channel.over:  # since _check_running: nobody else will see it
            self._channel.fail_all()
        return result

    # The methods of Pool, with the locks bound that the function asks for.

    @override
    def apply(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
    ) -> _T:
        """Call ``func(*args, **kwds)`` in a worker and return the result."""
        return self.apply_async(func, args, kwds).get()

    @override
    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[_T]:
        """Start ``func(*args, **kwds)`` in a worker and return its ``AsyncResult``."""
        args = tuple(args)
        func = bind_locks(func, self._locks, len(args), kwds)
        return self._unless_ended(
            super().apply_async(func, args, kwds, reported(callback), reported(error_callback))
        )

    @override
    def map(self, func: Callable[..., _T], iterable: Iterable[Any], chunksize: int | None = None) -> list[_T]:
        """Return ``[func(x) for x in iterable]``, the calls spread over the workers."""
        return super().map(bind_locks(func, self._locks, 1), iterable, chunksize)

    @override
    def map_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """Start what ``map`` does and return its ``MapResult``."""
        func = bind_locks(func, self._locks, 1)
        return super().map_async(func, iterable, chunksize, callback, error_callback)

    @override
    def imap(
        self, func: Callable[..., _T], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator[_T]:
        """Yield each result of ``map``, in order, as soon as it is there."""
        return self._unless_ended(super().imap(bind_locks(func, self._locks, 1), iterable, chunksize))

    @override
    def imap_unordered(
        self, func: Callable[..., _T], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator[_T]:
        """Yield each result of ``map``, in any order, as soon as it is there."""
        return self._unless_ended(
            super().imap_unordered(bind_locks(func, self._locks, 1), iterable, chunksize)
        )

    @override
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[_T]:
        """Return ``[func(*args) for args in iterable]``, the calls spread over the workers."""
        func, iterable = self._bind_star(func, iterable)
        return super().starmap(func, iterable, chunksize)

    @override
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[_T]]:
        """Start what ``starmap`` does and return its ``AsyncResult``."""
        func, iterable = self._bind_star(func, iterable)
        return super().starmap_async(func, iterable, chunksize, callback, error_callback)

    def _bind_star(
        self, func: Callable[..., _T], iterable: Iterable[Iterable[Any]]
    ) -> tuple[Callable[..., _T], Iterable[Iterable[Any]]]:
        if not asks_for(func, self._locks):
            return func, iterable
        calls = [args if isinstance(args, Sized) else tuple(args) for args in iterable]
        shortest = min(map(len, calls), default=0)  # the call that leaves the most to be filled
        return (bind_locks(func, self._locks, shortest) if calls else func), calls


def _cpu_count() -> int:
    # What the process may use from Python 3.13 on, as for multiprocessing.pool.Pool.
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _start_thread(target: Callable[..., None], *args: Any) -> Thread:
    thread = Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _end_workers(workers: Iterable[Worker]) -> None:
    for worker in workers:
        worker.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
