"""Items and results that raise, or cannot be sent."""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import fault_tasks as tasks
import pytest

from helpers import MaybeEncodingError, wait_until, workers
from poollock import (
    LockedPool,
)


def test_base_exceptions_fail_the_task_only(pool: LockedPool) -> None:
    wait_until(lambda: len(workers(pool)) == 2)
    before = sorted(workers(pool))
    for error in (SystemExit, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error):
            pool.apply(_raise, (error,))
    assert sorted(workers(pool)) == before


def _raise(error: type[BaseException]) -> NoReturn:
    raise error


def test_results_that_cannot_be_sent(pool: LockedPool) -> None:
    with pytest.raises(MaybeEncodingError, match=r"of _give_lock'.*lock"):
        pool.apply(_give_lock)
    with pytest.raises(MaybeEncodingError, match="with a lock") as caught:
        pool.apply(tasks.raise_unpicklable)
    assert "in raise_unpicklable" in str(caught.value.__cause__)
    with pytest.raises(MaybeEncodingError, match="1 and 2") as caught:
        pool.apply(tasks.raise_needs_two)
    assert "in raise_needs_two" in str(caught.value.__cause__)
    with pytest.raises(pickle.UnpicklingError, match=r"result of give_at_unpickling.*ValueError: as ordered"):
        pool.apply(tasks.give_at_unpickling, ("exception",))
    assert pool.apply(tasks.square, (2,)) == 4


def _give_lock() -> Any:
    return threading.Lock()


class Lazy:
    """Has no more items than it says, and perhaps fewer."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise self.error("as ordered")
        return index


@pytest.mark.parametrize("chunksize", [1, None])
def test_items_of_which_there_are_fewer_than_they_say(pool: LockedPool, chunksize: int | None) -> None:
    cut_short: Any = Lazy(IndexError)
    with pytest.raises(ValueError, match="fewer items than its length"):
        pool.map(tasks.square, cut_short, chunksize)
    unreadable: Any = Lazy(OSError)
    errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    with pytest.raises(OSError, match="as ordered"):
        pool.map_async(tasks.square, unreadable, chunksize, error_callback=errors.put).get()
    assert isinstance(errors.get(), OSError)
    assert pool.apply(tasks.square, (3,)) == 9


def test_items_that_raise(pool: LockedPool) -> None:
    def items(error: type[BaseException]) -> Iterator[int]:
        yield 1
        raise error

    for error in (ZeroDivisionError, SystemExit, KeyboardInterrupt):
        results = pool.imap(tasks.square, items(error))
        assert next(results) == 1
        with pytest.raises(error):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
    assert pool.apply(tasks.square, (2,)) == 4


def test_result_with_a_class_of_its_own_mind(pool: LockedPool) -> None:
    assert type(pool.apply(tasks.give_odd)) is tasks.Odd
    assert pool.apply(tasks.give_maybe_encoding_error).value == "'value'"
