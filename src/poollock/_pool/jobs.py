"""What the methods of a pool do inside, where the standard pool could wait for ever."""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar, cast

from poollock._backend.mp_pool import helper_reraises_exception
from poollock._supervisor.callbacks import reported

_T = TypeVar("_T")
_R = TypeVar("_R")

if TYPE_CHECKING:
    from multiprocessing.pool import AsyncResult

    from poollock._supervisor.event_loop import EventLoop


class PoolJobs(multiprocessing.pool.Pool):
    """``multiprocessing.Pool``, whose jobs all end: with their results, or with an error."""

    _processes: int
    _cache: dict[int, Any]
    _channel: EventLoop

    def _guarded_task_generation(self, result_job: int, func: Any, iterable: Iterable[Any]) -> Iterator[Any]:
        index, parts = -1, getattr(self._cache.get(result_job), "_number_left", 0)  # those of a map
        try:
            for index, item in enumerate(iterable):
                try:
                    yield result_job, index, func, (item,), {}
                except GeneratorExit:  # nobody wants the rest; the iterable itself may raise one
                    return
            if index + 1 < parts:
                raise ValueError("the iterable has fewer items than its length")  # noqa: TRY301 - for all alike
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
        if chunksize is None or chunksize < 1:
            iterable = iterable if isinstance(iterable, Sized) else list(iterable)
        if chunksize is None:
            # By the number that there should be: while workers are replaced, there may be none.
            chunksize = -(-len(iterable) // (self._processes * 4))
        elif chunksize < 1 and len(iterable):
            raise ValueError(f"chunksize must be 1 or more, not {chunksize}")
        return self._unless_ended(
            standard._map_async(func, iterable, mapper, chunksize, *map(reported, callbacks), **kwds)
        )

    def _unless_ended(self, result: _R) -> _R:
        if self._channel.over:  # since _check_running: nobody else will see it
            self._channel.fail_all()
        return result


def wait_for(result: AsyncResult[_T]) -> _T:
    """Do what ``get`` does, whose frame keeps an error, and all that its traceback names, in a cycle."""
    result.wait()
    success = result.successful()
    value: _T = cast("Any", result)._value
    del result
    try:
        if success:
            return value
        raise cast("BaseException", value)
    finally:
        del value
