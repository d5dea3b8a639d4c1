"""Iterables that do not end, or wait for their source, keep nobody else from their tasks."""

from __future__ import annotations

import gc
import itertools
import queue
import threading
import weakref
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import wait_until
from poollock import LockedPool, locked_pool


class Counted:
    """Items without end, of which it is known how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return self.taken


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
@pytest.mark.parametrize("end", ["dropped", "closed"])
@pytest.mark.parametrize("chunksize", [1, 5])
def test_iterator_that_nobody_wants_takes_no_more(
    pool: LockedPool, name: str, end: str, chunksize: int
) -> None:
    items = Counted()
    kept = weakref.ref(items)
    results: Any = getattr(pool, name)(tasks.square, items, chunksize)
    next(results)
    if end == "closed":
        results.close()
        with pytest.raises(StopIteration):
            next(results)
    del results, items
    wait_until(lambda: kept() is None)  # the pool has forgotten it
    assert pool.apply(tasks.square, (3,)) == 9


def test_iterator_that_is_kept_keeps_nobody_waiting(pool: LockedPool) -> None:
    results = pool.imap(tasks.square, itertools.count())
    assert next(results) == 0
    assert pool.map(tasks.square, range(300), chunksize=1) == [x * x for x in range(300)]
    assert next(results) == 1


def test_source_that_blocks_keeps_nobody_waiting(pool: LockedPool) -> None:
    source: queue.Queue[int | None] = queue.Queue()
    results = pool.imap(tasks.square, iter(source.get, None))
    assert pool.apply(tasks.square, (3,)) == 9
    source.put(2)
    assert next(results) == 4
    source.put(None)
    assert list(results) == []


def test_iterator_that_was_never_begun_runs_on(pool: LockedPool) -> None:
    """As with the standard pool: the call alone runs them all."""
    called = threading.Event()

    def items() -> Any:
        yield from range(500)
        called.set()

    pool.imap(tasks.square, items())
    gc.collect()
    called.wait()


def test_closed_pool_ends_when_its_iterator_is_dropped() -> None:
    pool = locked_pool(1)
    results = pool.imap(tasks.square, itertools.count())
    next(results)
    pool.close()
    del results
    pool.join()
