"""What must not end the thread that all results come through, nor leave anybody waiting for it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import wait_until
from poollock import BrokenPoolError, LockedPool, locked_pool


@pytest.mark.parametrize("method_name", ["imap", "imap_unordered"])
def test_each_thread_gets_its_part_of_a_batch(pool: LockedPool, method_name: str) -> None:
    gate = threading.Event()

    def items() -> Iterator[int]:
        gate.wait()
        yield from range(8)

    results = getattr(pool, method_name)(tasks.square, items())
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(next(results))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == [x * x for x in range(8)]


@pytest.mark.parametrize("method_name", ["imap", "imap_unordered"])
def test_each_thread_learns_of_the_end(pool: LockedPool, method_name: str, tmp_path: Path) -> None:
    path = tmp_path / "stays"
    results = getattr(pool, method_name)(tasks.stay_while, [str(path)])
    rest: list[list[int]] = []
    threads = [threading.Thread(target=lambda: rest.append(list(results))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(path.exists)
    path.unlink()
    for thread in threads:
        thread.join()
    assert sorted(map(len, rest)) == [0, 0, 1]


def test_error_that_cannot_be_shown(pool: LockedPool) -> None:
    with pytest.raises(Exception, match=r"cannot be unpickled in .*: Unshowable$"):
        pool.apply(tasks.give_unshowable)
    with pytest.raises(tasks.Unshowable):
        pool.apply(tasks.raise_unshowable)
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


def test_nothing_can_be_reported(pool: LockedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(threading, "excepthook", fail)
    assert pool.apply_async(tasks.square, (3,), callback=fail).get() == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pool.apply(tasks.take_and_return, (pool.lock,)) == "done"
    assert pool.apply_async(tasks.square, (4,), callback=lambda _: None).get() == 16


class RaisesGeneratorExit:
    """Raises what closes a generator, and is none."""

    def __init__(self) -> None:
        self.items = iter([1, 2])

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        for item in self.items:
            return item
        raise GeneratorExit


def test_iterable_that_raises_generator_exit(pool: LockedPool) -> None:
    results = pool.imap(tasks.square, RaisesGeneratorExit())
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(GeneratorExit):
        next(results)
    assert pool.apply(tasks.square, (3,)) == 9


def test_callback_that_waits_does_not_keep_others_from_the_end() -> None:
    go_on, called = threading.Event(), threading.Event()
    seen: list[Any] = []

    def wait(x: int) -> None:
        called.set()
        go_on.wait()
        seen.append(x)

    with locked_pool(2) as pool:
        first = pool.apply_async(tasks.square, (3,), callback=wait, error_callback=seen.append)
        called.wait()
        others = [
            pool.apply_async(tasks.square, (4,), callback=seen.append, error_callback=seen.append),
            pool.map_async(tasks.square, [5], callback=seen.append, error_callback=seen.append),
        ]
        pool.apply(tasks.square, (6,))
    # Nobody waits for the callback: each has its result, or an error where that had not come yet.
    for other, result in zip(others, (16, [25]), strict=True):
        with suppress(BrokenPoolError):
            assert other.get() == result
    assert first.get() == 9
    assert not seen
    go_on.set()
    wait_until(lambda: len(seen) == 3)
    assert seen[0] == 9


def test_task_that_comes_while_the_pool_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that gives it has seen that the pool is not closed yet."""
    pool: Any = locked_pool(1)
    results: list[Any] = []
    checked, go_on = threading.Event(), threading.Event()
    check = pool._check_running

    def check_and_wait() -> None:
        check()
        checked.set()
        go_on.wait()

    monkeypatch.setattr(pool, "_check_running", check_and_wait)
    thread = threading.Thread(target=lambda: results.append(pool.apply_async(tasks.square, (2,))))
    thread.start()
    checked.wait()
    pool.close()
    pool.join()
    go_on.set()
    thread.join()
    with pytest.raises(BrokenPoolError):
        results[0].get()
