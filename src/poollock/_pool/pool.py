"""LockedPool: a multiprocessing.Pool whose workers share locks."""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.pool import AsyncResult, MapResult
from multiprocessing.util import Finalize
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar, overload
from weakref import ref

from poollock._backend.context import resolve_context
from poollock._backend.describe import describe
from poollock._backend.signals import DelayedKeyboardInterrupt, signals_blocked
from poollock._checks import check_count, check_path, check_timeout
from poollock._errors import LockWait
from poollock._locks.base import BaseLock
from poollock._locks.current import find_lock
from poollock._locks.lock import Lock
from poollock._supervisor import results
from poollock._supervisor.jobs import Job, JobRunner, chunks_of, in_buffer, is_at_hand
from poollock._supervisor.supervisor import Supervisor
from poollock._typing import override
from poollock._worker.task_pickling import CALL, MAP, STARMAP

from .arguments import (
    InitArgsMaker,
    check_buffersize,
    check_chunksize,
    check_locks,
    check_main_module,
    cpu_count,
    open_trace,
)
from .binding import bind_locks, bind_map, bind_star

_A = TypeVar("_A")
_T = TypeVar("_T")
_L = TypeVar("_L", bound=BaseLock)
_M = TypeVar("_M", bound=BaseLock)
_P = ParamSpec("_P")

# Not Iterable[str]: a dict is one, whatever its values are.
LockNames: TypeAlias = Sequence[str] | AbstractSet[str]
StrPath: TypeAlias = str | PathLike[str]

if TYPE_CHECKING:
    from concurrent.futures import Future
    from multiprocessing.pool import IMapIterator

    # What takes an item first; a lock and an item; two locks and an item. More may follow: locks by name.
    Task: TypeAlias = Callable[Concatenate[_A, ...], _T]
    LockTask: TypeAlias = Callable[Concatenate[_L, _A, ...], _T]
    LocksTask: TypeAlias = Callable[Concatenate[_L, _M, _A, ...], _T]
else:
    # For typing.get_type_hints: the standard IMapIterator takes no [T], and Future takes long to import.
    IMapIterator = results.ResultIterator

    class Future:
        def __class_getitem__(cls, item: Any) -> Any:
            from concurrent.futures import Future  # noqa: PLC0415 - see above

            return Future[item]


class LockedPool(multiprocessing.pool.Pool):
    """A ``multiprocessing.Pool`` whose workers share locks; its arguments are those of :func:`locked_pool`.

    Where a method raises or gives an error, it is one of these:

    - what the task itself raised;
    - ``WorkerDiedError``: the worker that ran the task has ended;
    - ``TaskTimeoutError``: the task took longer than ``task_timeout``;
    - ``DeadlockError``: the task waited for a lock that could never be free;
    - ``InitializerError``: the initializer raised;
    - ``BrokenPoolError``: the workers do not start, or the pool was ended first;
    - ``TypeError``: the function asks for a lock at a place that cannot be filled;
    - ``ValueError``: the pool is closed.
    """

    __module__ = "poollock"

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        locks: LockNames | Mapping[str, BaseLock] | None = None,
        task_timeout: float | None = None,
        trace: StrPath | None = None,
    ) -> None:
        # The standard class, its __repr__ and its __del__, and programs that look into it, expect
        # _state, _ctx, _processes, _pool and _terminate.
        self._state: str = multiprocessing.pool.INIT  # for __del__, if an argument is wrong
        processes = check_count("processes", processes)
        # ValueError, as the standard pool.
        maxtasksperchild = check_count("maxtasksperchild", maxtasksperchild, ValueError)
        check_timeout("task_timeout", task_timeout)
        trace_path = check_path("trace", trace)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        ctx = resolve_context(context)
        self._ctx: Any = ctx
        processes = processes or cpu_count()
        self._processes: int = processes
        initargs = tuple(initargs)
        requested = check_locks(locks, ctx)
        check_main_module(ctx)
        trace_file = None if trace_path is None else open_trace(trace_path, processes)
        supervisor: Supervisor | None = None
        self._supervisor: JobRunner
        try:
            with DelayedKeyboardInterrupt():
                with signals_blocked(ctx):
                    self._locks = self._make_locks(requested, ctx)
                for name, lock in self._locks.items():
                    lock._name = lock._name or name
                    lock._is_pools |= lock is not requested[name]
                self._supervisor = supervisor = Supervisor(
                    ctx,
                    self.Process,
                    processes,
                    maxtasks=maxtasksperchild,
                    make_init_args=InitArgsMaker(self._locks, ctx, initializer, initargs),
                    locks=self._locks.values(),
                    task_timeout=task_timeout,
                    trace=trace_file,
                )
                self._pool = supervisor.processes
                self._terminate = Finalize(self, _finalize, args=(ref(self), supervisor), exitpriority=15)
                self._state = multiprocessing.pool.RUN
        except BaseException:  # a Ctrl-C that was delayed among them
            if supervisor is not None:
                self.terminate()
            else:
                self._end_locks()
                if trace_file is not None:
                    trace_file.close_file()
            raise

    @property
    def lock(self) -> Any:
        """The lock called ``lock``, else the only one.

        For a type checker it may be any kind of lock: which one depends on the pool, and a task function
        may ask for a ``Lock`` as well as for a ``Semaphore``.

        Raises:
            AttributeError: The pool has several locks, and none of that name.
        """
        try:
            return find_lock(self._locks, "lock")
        except KeyError:
            names = ", ".join(map(repr, self._locks)) or "none at all"
            raise AttributeError(f"this pool has no lock 'lock', but {names}: see pool.locks") from None

    @property
    def locks(self) -> Mapping[str, Any]:
        """The pool's locks by name; for a type checker, each may be any kind of lock."""
        return MappingProxyType(self._locks)

    def lock_waits(self) -> list[LockWait]:
        """Return the tasks that wait for a lock, and have done so for a second or longer.

        It is what to look at when a job seems to stand still.

        Returns:
            For each such task, the longest wait first, the lock and who holds it.
        """
        return self._supervisor.lock_waits()

    def _make_locks(self, requested: Mapping[str, BaseLock | None], ctx: BaseContext) -> dict[str, BaseLock]:
        """Return the pool's locks; *requested* has None where a plain one is to be made."""
        return {name: Lock(context=ctx) if lock is None else lock for name, lock in requested.items()}

    def _end_locks(self) -> None:
        """End what the locks live in, if it belongs to the pool."""

    @override
    def apply(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
    ) -> _T:
        """Call ``func(*args, **kwds)`` in a worker and return the result.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            args: Its other arguments.
            kwds: Its keyword arguments.

        Returns:
            The result of the call.

        Raises:
            Exception: What the call raised, or an error of the pool's own: see ``LockedPool``.
        """
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
        """Start ``func(*args, **kwds)`` in a worker and return its ``AsyncResult``.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            args: Its other arguments.
            kwds: Its keyword arguments.
            callback: Called with the result, in a thread of this process.
            error_callback: Called with the error instead.

        Returns:
            The ``AsyncResult`` of the call.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed.
        """
        self._check_running()
        args = tuple(args)
        func = bind_locks(func, self._locks, args, kwds)
        result = results.ApplyResult(callback, error_callback)
        self._supervisor.submit(Job(CALL, func, [args], result, kwds=kwds), self)
        return result

    @overload
    def map(self, func: Task[_A, _T], iterable: Iterable[_A], chunksize: int | None = None) -> list[_T]: ...

    @overload
    def map(
        self, func: LockTask[_L, _A, _T], iterable: Iterable[_A], chunksize: int | None = None
    ) -> list[_T]: ...

    @overload
    def map(
        self, func: LocksTask[_L, _M, _A, _T], iterable: Iterable[_A], chunksize: int | None = None
    ) -> list[_T]: ...

    @override
    def map(self, func: Callable[..., _T], iterable: Iterable[Any], chunksize: int | None = None) -> list[_T]:
        """Return ``[func(x) for x in iterable]``, the calls spread over the workers.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The items, each for one call.
            chunksize: How many items make one task; ``None`` shares them out in four for each worker.

        Returns:
            The results, in the order of the items.

        Raises:
            Exception: What a call raised, or an error of the pool's own: see ``LockedPool``.
        """
        values: list[_T] = self.map_async(func, iterable, chunksize).get()
        return values

    @overload
    def map_async(
        self,
        func: Task[_A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]: ...

    @overload
    def map_async(
        self,
        func: LockTask[_L, _A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]: ...

    @overload
    def map_async(
        self,
        func: LocksTask[_L, _M, _A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]: ...

    @override
    def map_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """Start what ``map`` does and return its ``MapResult``.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The items, each for one call.
            chunksize: How many items make one task; ``None`` shares them out in four for each worker.
            callback: Called with the result, in a thread of this process.
            error_callback: Called with the error instead.

        Returns:
            The ``MapResult`` of all the calls.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed, or *chunksize* is below 1.
        """
        self._check_running()
        func = bind_map(func, iterable, self._locks)
        return self._map(MAP, func, iterable, chunksize, results.MapResult(callback, error_callback))

    @overload
    def imap(
        self,
        func: Task[_A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]: ...

    @overload
    def imap(
        self,
        func: LockTask[_L, _A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]: ...

    @overload
    def imap(
        self,
        func: LocksTask[_L, _M, _A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]: ...

    @override
    def imap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Any],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]:
        """Yield each result of ``map``, in order, as soon as it is there.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The items, each for one call.
            chunksize: How many items make one task.
            buffersize: How many items at most are taken ahead of those whose results have been yielded;
                ``None`` is no limit.

        Returns:
            An iterator over the results, in the order of the items.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed, *chunksize* is below 1, or *buffersize* below that.
        """
        self._check_running()
        func = bind_map(func, iterable, self._locks)
        return self._imap(results.ResultIterator, func, iterable, chunksize, buffersize)

    @overload
    def imap_unordered(
        self,
        func: Task[_A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]: ...

    @overload
    def imap_unordered(
        self,
        func: LockTask[_L, _A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]: ...

    @overload
    def imap_unordered(
        self,
        func: LocksTask[_L, _M, _A, _T],
        iterable: Iterable[_A],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]: ...

    @override
    def imap_unordered(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Any],
        chunksize: int | None = 1,
        *,
        buffersize: int | None = None,
    ) -> IMapIterator[_T]:
        """Yield each result of ``map``, in any order, as soon as it is there.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The items, each for one call.
            chunksize: How many items make one task.
            buffersize: How many items at most are taken ahead of those whose results have been yielded;
                ``None`` is no limit.

        Returns:
            An iterator over the results, in the order in which they come.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed, *chunksize* is below 1, or *buffersize* below that.
        """
        self._check_running()
        func = bind_map(func, iterable, self._locks)
        return self._imap(results.UnorderedResultIterator, func, iterable, chunksize, buffersize)

    @override
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[_T]:
        """Return ``[func(*args) for args in iterable]``, the calls spread over the workers.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The arguments of each call: all without the locks, or all with them.
            chunksize: How many items make one task; ``None`` shares them out in four for each worker.

        Returns:
            The results, in the order of the items.

        Raises:
            Exception: What a call raised, or an error of the pool's own: see ``LockedPool``.
        """
        return self.starmap_async(func, iterable, chunksize).get()

    @override
    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[list[_T]]:
        """Start what ``starmap`` does and return its ``AsyncResult``.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The arguments of each call: all without the locks, or all with them.
            chunksize: How many items make one task; ``None`` shares them out in four for each worker.
            callback: Called with the result, in a thread of this process.
            error_callback: Called with the error instead.

        Returns:
            The ``AsyncResult`` of all the calls.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed, or *chunksize* is below 1.
        """
        self._check_running()
        func, iterable = bind_star(func, iterable, self._locks)
        return self._map(STARMAP, func, iterable, chunksize, results.MapResult(callback, error_callback))

    @overload
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...

    @overload
    def submit(
        self, fn: Callable[Concatenate[_L, _P], _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...

    @overload
    def submit(
        self, fn: Callable[Concatenate[_L, _M, _P], _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Start ``fn(*args, **kwargs)`` in a worker and return its ``concurrent.futures.Future``.

        The future can be waited for as any other: ``concurrent.futures.wait``, ``as_completed``,
        ``asyncio.wrap_future``; ``loop.run_in_executor(pool, fn, *args)`` works, too.  Unlike an
        executor, the pool ends its tasks at the end of its ``with`` block, and does not wait for them.

        Args:
            fn: The task function, of a module or a class; its lock parameters are filled.
            args: Its other arguments.
            kwargs: Its keyword arguments.

        Returns:
            The future of the call.  It can be cancelled as long as no worker has begun the call,
            which is then never run.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed.
        """
        self._check_running()
        fn = bind_locks(fn, self._locks, args, kwargs)
        future: Future[_T] = self._supervisor.submit_call(fn, args, kwargs, self)
        return future

    def _map(
        self,
        how: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        result: results.MapResult,
    ) -> MapResult[Any]:
        items = iterable if isinstance(iterable, Sized) else list(iterable)
        if not len(items):
            # The standard pool calls no callback then, and takes the chunksize 0 that a program computes.
            result = results.MapResult(None, None)
            result.finish()
            result.release()
            return result
        if chunksize is None:
            chunksize = -(-len(items) // (self._processes * 4))
        size = check_chunksize(chunksize)
        job = Job(
            how,
            func,
            chunks_of(items, size),
            result,
            chunksize=size,
            length=len(items),
            at_hand=is_at_hand(items),
        )
        self._supervisor.submit(job, self)
        return result

    def _imap(
        self,
        iterator: type[results.ResultIterator],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        buffersize: int | None,
    ) -> IMapIterator[Any]:
        size = check_chunksize(1 if chunksize is None else chunksize)
        check_buffersize(buffersize, size)
        ordered = iterator is results.ResultIterator
        queue = results.ResultQueue(ordered=ordered, chunked=size > 1, buffersize=buffersize)
        at_hand = is_at_hand(iterable) and buffersize is None
        items = iterable if buffersize is None else in_buffer(iterable, queue)
        how = MAP if size > 1 else CALL  # a single item is no chunk: its result is no list
        job = Job(how, func, chunks_of(items, size), queue, chunksize=size, at_hand=at_hand)
        cancel = partial(self._supervisor.pending.cancel, job)
        try:
            self._supervisor.submit(job, self)
            return iterator(queue, cancel)
        except BaseException:  # Ctrl-C: the items may have no end
            cancel()
            queue.release()
            raise

    @override
    def close(self) -> None:
        """Take no more tasks; the workers end when those that there are have been done."""
        if self._state == multiprocessing.pool.RUN:
            self._state = multiprocessing.pool.CLOSE
            self._supervisor.close()

    @override
    def terminate(self) -> None:
        """End the workers at once, whatever they are doing, and what the locks live in."""
        self._supervisor.terminate()  # first: Ctrl-C may come before the rest
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
        if self._state == multiprocessing.pool.CLOSE and self._supervisor.in_callback:
            raise RuntimeError("a callback cannot join its pool, which waits for the callback first")
        self._supervisor.join()
        self._end_locks()

    def _check_running(self) -> None:
        if self._state != multiprocessing.pool.RUN:
            raise ValueError("Pool not running")
        if not self._supervisor.belongs_to_this_process:
            raise ValueError(f"this pool belongs to the process that made it, not to {describe()}")

    def _repopulate_pool(self) -> None:
        self._supervisor.request_start()


def _finalize(pool: ref[LockedPool], supervisor: JobRunner) -> None:
    """End the workers of *pool*; wait for that, unless the garbage collector calls this.

    That may be in any thread, which may hold any lock.
    """
    supervisor.terminate()
    if pool() is not None:
        supervisor.join()
