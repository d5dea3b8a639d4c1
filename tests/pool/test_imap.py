"""How much of its iterable imap takes, and when it stops."""

from __future__ import annotations

import itertools
import queue
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import needs_posix, start_program, wait_until
from poollock import LockedPool, locked_pool

NAMES = pytest.mark.parametrize("name", ["imap", "imap_unordered"])


def reading() -> bool:
    """Whether a pool still takes items of an iterable."""
    return any(thread.name == "poollock-iterable" for thread in threading.enumerate())


@NAMES
def test_buffer(pool: LockedPool, name: str) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = getattr(pool, name)(tasks.square, items(), buffersize=5)
    for count in range(1, 50):
        next(results)
        assert len(taken) <= count + 5
    results.close()
    with pytest.raises(StopIteration):
        next(results)
    wait_until(lambda: not reading())
    assert list(getattr(pool, name)(tasks.square, [1, 1, 1], 2, buffersize=2)) == [1, 1, 1]
    with pytest.raises(ValueError, match="at least the chunksize, 3, not 2"):
        getattr(pool, name)(tasks.square, [1], 3, buffersize=2)


@NAMES
@pytest.mark.parametrize("buffersize", [None, 3])
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_iterator_that_is_not_wanted_stops_taking(
    pool: LockedPool, name: str, buffersize: int | None, end: str
) -> None:
    results: Any = getattr(pool, name)(tasks.square, itertools.count(), buffersize=buffersize)
    next(results)
    if end == "closed":
        results.close()
    del results
    assert pool.apply(tasks.square, (3,)) == 9
    wait_until(lambda: not reading())


@needs_posix
@NAMES
def test_iterator_that_is_interrupted_stops_taking(name: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED.format(name=name))
    process = start_program(program)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    output, error = process.communicate()
    assert (output, error) == ("interrupted\nstopped\n", "")


INTERRUPTED = """
import itertools, threading, time
from poollock import locked_pool

if __name__ == "__main__":
    with locked_pool(2) as pool:
        try:
            for number, result in enumerate(pool.{name}(abs, itertools.count())):
                if number == 20:  # the loop has begun: an iterator that is dropped before goes on
                    print("waits", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
        while any(thread.name == "poollock-iterable" for thread in threading.enumerate()):
            time.sleep(0.01)
        print("stopped")
"""


@NAMES
def test_endless_source_read_for_ten_items(pool: LockedPool, name: str) -> None:
    """Each item is a megabyte, and so is its result: no more of them are kept than the buffer has."""
    taken: list[int] = []

    def items() -> Iterator[bytes]:
        for number in itertools.count():
            taken.append(number)
            yield bytes(1 << 20)

    tracemalloc.start()
    try:
        results: Any = getattr(pool, name)(bytes, items(), buffersize=4)
        for _ in range(10):
            assert len(next(results)) == 1 << 20
        wait_until(lambda: len(taken) == 14)
        assert pool.map(tasks.square, range(100)) == [x * x for x in range(100)]  # time for more
        _, peak = tracemalloc.get_traced_memory()
        assert len(taken) == 14
        assert peak < 24 << 20
    finally:
        tracemalloc.stop()
    results.close()


@NAMES
def test_iterator_that_was_never_begun_runs_all(name: str) -> None:
    """Some want no results: pool.imap(f, items); pool.close(); pool.join()."""
    taken = threading.Event()

    def items() -> Iterator[int]:
        yield from range(1000)
        taken.set()

    pool = locked_pool(2)
    getattr(pool, name)(tasks.square, items())
    pool.close()
    pool.join()
    assert taken.is_set()


@NAMES
def test_source_that_blocks_keeps_nobody_waiting(pool: LockedPool, name: str) -> None:
    source: queue.Queue[int | None] = queue.Queue()
    results = getattr(pool, name)(tasks.square, iter(source.get, None))
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    assert pool.apply(tasks.square, (3,)) == 9
    source.put(5)
    assert next(results) == 25
    source.put(None)
    assert list(results) == []


def test_end_does_not_wait_for_a_source_that_blocks() -> None:
    source: queue.Queue[int | None] = queue.Queue()
    with locked_pool(1) as pool:
        pool.imap(tasks.square, iter(source.get, None))
        pool.imap(tasks.square, itertools.count(), buffersize=2)
        assert pool.apply(tasks.square, (3,)) == 9
    source.put(None)
    wait_until(lambda: not reading())
