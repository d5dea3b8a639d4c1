"""What type checkers make of a pool's methods: checked by them, and never run.

A comment expects an error of each of them: if one finds none there, it says so.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import Future
from functools import partial
from multiprocessing.pool import AsyncResult, IMapIterator, MapResult

from typing_extensions import assert_type

from poollock import (
    BaseLock,
    Lock,
    LockedPool,
    Semaphore,
    TaskTimeoutError,
    WorkerDiedError,
    locked_pool,
    manager_locked_pool,
)


def plain(x: int) -> str:
    return str(x)


def leading(lock: BaseLock, x: int) -> str:
    return str(x)


def leading_lock(lock: Lock, x: int) -> str:
    return str(x)


def two_leading(api: Semaphore, log: Lock, x: int) -> str:
    return str(x)


def keyword(x: int, *, lock: BaseLock) -> str:
    return str(x)


def keywords(x: int, *, api: Semaphore, log: Lock) -> str:
    return str(x)


def trailing(x: int, lock: BaseLock) -> str:
    return str(x)


def trailing_lock(x: int, lock: Lock) -> str:
    return str(x)


def leading_and_keyword(lock: BaseLock, x: int, *, log: BaseLock) -> str:
    return str(x)


class Tasks:
    def bound(self, lock: BaseLock, x: int) -> str:
        return str(x)

    @staticmethod
    def static(lock: BaseLock, x: int) -> str:
        return str(x)

    @classmethod
    def of_class(cls, x: int, *, lock: BaseLock) -> str:  # noqa: ARG003 - its type is what is tested
        return str(x)

    def __call__(self, lock: BaseLock, x: int) -> str:
        return str(x)


def results(pool: LockedPool, numbers: list[int]) -> None:
    assert_type(pool.map(plain, numbers), list[str])
    assert_type(pool.map(leading, numbers), list[str])
    assert_type(pool.map(leading_lock, numbers), list[str])
    assert_type(pool.map(two_leading, numbers), list[str])
    assert_type(pool.map(keyword, numbers), list[str])
    assert_type(pool.map(keywords, numbers), list[str])
    assert_type(pool.map(trailing, numbers), list[str])
    assert_type(pool.map(leading_and_keyword, numbers), list[str])
    assert_type(pool.map(Tasks().bound, numbers), list[str])
    assert_type(pool.map(Tasks.static, numbers), list[str])
    assert_type(pool.map(Tasks.of_class, numbers), list[str])
    assert_type(pool.map(Tasks(), numbers), list[str])
    assert_type(pool.map(partial(leading, pool.lock), numbers), list[str])
    assert_type(pool.map(abs, numbers), list[int])
    assert_type(pool.map(int, ["1", "2"]), list[int])
    assert_type(pool.map(str.upper, ["a"], 5), list[str])
    assert_type(pool.map_async(leading, numbers), MapResult[str])
    assert_type(pool.imap(leading, numbers), IMapIterator[str])
    assert_type(pool.imap_unordered(keyword, iter(numbers), chunksize=10), IMapIterator[str])
    assert_type(pool.apply(leading, (1,)), str)
    assert_type(pool.apply_async(keyword, (1,)), AsyncResult[str])
    assert_type(pool.starmap(leading, [(1,)]), list[str])


def futures(pool: LockedPool) -> None:
    assert_type(pool.submit(plain, 1), Future[str])
    assert_type(pool.submit(plain, x=1), Future[str])
    assert_type(pool.submit(leading, 1), Future[str])
    assert_type(pool.submit(leading_lock, 1).result(), str)
    assert_type(pool.submit(two_leading, x=1), Future[str])
    assert_type(pool.submit(keyword, 1, lock=pool.lock), Future[str])
    assert_type(pool.submit(Tasks().bound, 1), Future[str])
    assert_type(pool.submit(lambda: 5), Future[int])
    pool.submit(plain, "1")  # type: ignore[call-overload]
    pool.submit(leading, "1")  # type: ignore[call-overload]
    pool.submit(plain)  # type: ignore[call-overload]


async def awaits(pool: LockedPool) -> None:
    assert_type(await asyncio.wrap_future(pool.submit(leading, 1)), str)


def limits(pool: LockedPool, numbers: list[int]) -> None:
    assert_type(locked_pool(2, task_timeout=5), LockedPool)
    assert_type(manager_locked_pool(2, task_timeout=0.5), LockedPool)
    locked_pool(2, task_timeout="5")  # type: ignore[arg-type]
    assert_type(pool.imap(leading, iter(numbers), buffersize=5), IMapIterator[str])
    assert_type(pool.imap_unordered(plain, numbers, 2, buffersize=5), IMapIterator[str])
    pool.imap(plain, numbers, buffersize="5")  # type: ignore[call-overload]
    try:
        pool.map(plain, numbers)
    except TaskTimeoutError as error:
        assert_type(error.timeout, float)
        assert_type(error.items, range | None)
        assert_type(error.locks_held, tuple[str, ...])
    except WorkerDiedError as error:
        assert_type(error.items, range | None)


def wrong_items(pool: LockedPool, texts: list[str]) -> None:
    """Each line is an error for a type checker; one that is none makes its ignore unused."""
    pool.map(plain, texts)  # type: ignore[arg-type]
    pool.map(leading, texts)  # type: ignore[arg-type]
    pool.map(two_leading, texts)  # type: ignore[arg-type]
    pool.map(keyword, texts)  # type: ignore[arg-type]
    pool.map(trailing, texts)  # type: ignore[arg-type]
    pool.map(Tasks().bound, texts)  # type: ignore[arg-type]
    pool.imap(leading, texts)  # type: ignore[arg-type]
    pool.map_async(plain, texts)  # type: ignore[arg-type]
    pool.map(plain, 3)  # type: ignore[call-overload]


def makers() -> None:
    assert_type(locked_pool(2), LockedPool)
    assert_type(manager_locked_pool(2, locks={"api": Semaphore(2)}), LockedPool)
    locked_pool("2")  # type: ignore[arg-type]
    with locked_pool() as pool:
        assert_type(pool, LockedPool)


def locks_of_a_pool(pool: LockedPool) -> None:
    """Which kind of lock a pool has is not known: a function may ask for any."""
    pool.map(partial(trailing, lock=pool.lock), [1])
    pool.map(partial(trailing_lock, lock=pool.lock), [1])
    pool.map(partial(keywords, api=pool.locks["api"], log=pool.locks["log"]), [1])
    locked_pool(locks=("a", "b"))
    locked_pool(locks={"a", "b"})
    locked_pool(locks={"a": Lock(), "b": Semaphore(2)})
    locked_pool(locks={"a": multiprocessing.Lock()})  # type: ignore[dict-item]
    manager_locked_pool(locks={"a": multiprocessing.Lock()})  # type: ignore[dict-item]
