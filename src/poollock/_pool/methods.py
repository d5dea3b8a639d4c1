"""The methods of a pool that take tasks, with the locks bound that a function asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from poollock._locks.base import BaseLock
from poollock._supervisor.callbacks import reported
from poollock._typing import override

from .binding import bind_locks, bind_star
from .jobs import PoolJobs, wait_for

_A = TypeVar("_A")
_T = TypeVar("_T")
_L = TypeVar("_L", bound=BaseLock)
_M = TypeVar("_M", bound=BaseLock)

if TYPE_CHECKING:
    from multiprocessing.pool import AsyncResult, IMapIterator, MapResult
    from typing import Concatenate, TypeAlias

    # What takes an item first; a lock and an item; two locks and an item. More may follow: locks by name.
    Task: TypeAlias = Callable[Concatenate[_A, ...], _T]
    LockTask: TypeAlias = Callable[Concatenate[_L, _A, ...], _T]
    LocksTask: TypeAlias = Callable[Concatenate[_L, _M, _A, ...], _T]


class PoolMethods(PoolJobs):
    """``multiprocessing.Pool``, as its users call it."""

    _locks: dict[str, BaseLock]

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
        return wait_for(self.apply_async(func, args, kwds))

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
        args = tuple(args)
        func = bind_locks(func, self._locks, len(args), kwds)
        return self._unless_ended(
            super().apply_async(func, args, kwds, reported(callback), reported(error_callback))
        )

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
        return wait_for(self.map_async(func, iterable, chunksize))

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
        func = bind_locks(func, self._locks, 1)
        return super().map_async(func, iterable, chunksize, callback, error_callback)

    @overload
    def imap(
        self, func: Task[_A, _T], iterable: Iterable[_A], chunksize: int | None = 1
    ) -> IMapIterator[_T]: ...

    @overload
    def imap(
        self, func: LockTask[_L, _A, _T], iterable: Iterable[_A], chunksize: int | None = 1
    ) -> IMapIterator[_T]: ...

    @overload
    def imap(
        self, func: LocksTask[_L, _M, _A, _T], iterable: Iterable[_A], chunksize: int | None = 1
    ) -> IMapIterator[_T]: ...

    @override
    def imap(
        self, func: Callable[..., _T], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator[_T]:
        """Yield each result of ``map``, in order, as soon as it is there.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The items, each for one call.
            chunksize: How many items make one task.

        Returns:
            An iterator over the results, in the order of the items.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed, or *chunksize* is below 1.
        """
        func = bind_locks(func, self._locks, 1)
        return self._unless_ended(super().imap(func, iterable, 1 if chunksize is None else chunksize))

    @overload
    def imap_unordered(
        self, func: Task[_A, _T], iterable: Iterable[_A], chunksize: int | None = 1
    ) -> IMapIterator[_T]: ...

    @overload
    def imap_unordered(
        self, func: LockTask[_L, _A, _T], iterable: Iterable[_A], chunksize: int | None = 1
    ) -> IMapIterator[_T]: ...

    @overload
    def imap_unordered(
        self, func: LocksTask[_L, _M, _A, _T], iterable: Iterable[_A], chunksize: int | None = 1
    ) -> IMapIterator[_T]: ...

    @override
    def imap_unordered(
        self, func: Callable[..., _T], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator[_T]:
        """Yield each result of ``map``, in any order, as soon as it is there.

        Args:
            func: The task function, of a module or a class; its lock parameters are filled.
            iterable: The items, each for one call.
            chunksize: How many items make one task.

        Returns:
            An iterator over the results, in the order in which they come.

        Raises:
            TypeError: The function asks for a lock at a place that cannot be filled.
            ValueError: The pool is closed, or *chunksize* is below 1.
        """
        func = bind_locks(func, self._locks, 1)
        return self._unless_ended(
            super().imap_unordered(func, iterable, 1 if chunksize is None else chunksize)
        )

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
        return wait_for(self.starmap_async(func, iterable, chunksize))

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
        func, iterable = bind_star(func, iterable, self._locks)
        return super().starmap_async(func, iterable, chunksize, callback, error_callback)
