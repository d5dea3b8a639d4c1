"""What type checkers make of a cluster's pool: checked by them, and never run.  See ``results.py``."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from multiprocessing.pool import AsyncResult, IMapIterator

from typing_extensions import assert_type

from poollock import BaseLock, LockedPool, Semaphore
from poollock.dask import DaskLockedPool, dask_locked_pool


def plain(x: int) -> str:
    return str(x)


def leading(lock: BaseLock, x: int) -> str:
    return str(x)


def takes_a_pool(pool: LockedPool) -> list[str]:
    return pool.map(leading, [1])


def of_a_cluster() -> None:
    pool = dask_locked_pool("tcp://127.0.0.1:8786", locks={"lock": Semaphore(2)})
    assert_type(pool, DaskLockedPool)
    assert_type(pool.map(plain, [1]), list[str])
    assert_type(pool.map(leading, [1]), list[str])
    assert_type(pool.imap(leading, [1]), IMapIterator[str])
    assert_type(pool.apply_async(leading, (1,)), AsyncResult[str])
    assert_type(pool.submit(leading, 1).result(), str)
    assert_type(pool.free("lock"), bool)
    assert_type(takes_a_pool(pool), list[str])
    pool.map(leading, ["no int"])  # type: ignore[arg-type]
