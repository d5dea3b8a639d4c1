"""Callbacks: what they may do, and that each job has one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NoReturn

import fault_tasks as tasks
import pytest

from helpers import wait_until
from poollock import (
    InitializerError,
    LockedPool,
    locked_pool,
)


def test_callbacks_that_raise_or_wait(pool: LockedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def bad(_: object) -> NoReturn:
        raise ValueError("in a callback")

    assert pool.apply_async(tasks.square, (3,), callback=bad).get() == 9
    with pytest.raises(ValueError, match="as ordered"):
        pool.apply_async(tasks.run, ("exception",), error_callback=bad).get()
    assert pool.map_async(tasks.square, [1, 2], callback=bad).get() == [1, 4]
    assert [str(args.exc_value) for args in reported] == ["in a callback"] * 3
    # A callback may use the pool, and wait for it.
    seen: list[int] = []
    first = pool.apply_async(
        tasks.square, (3,), callback=lambda x: seen.append(pool.apply(tasks.square, (x,)))
    )
    assert first.get() == 9
    assert seen == [81]


def test_callbacks_when_there_are_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "poollock-callbacks":
            raise RuntimeError("can't start new thread")
        start(thread)

    with locked_pool(1) as pool:
        monkeypatch.setattr(threading.Thread, "start", fail)
        results = [pool.apply_async(tasks.square, (x,), callback=seen.append) for x in range(2)]
        assert [result.get() for result in results] == [0, 1]
        monkeypatch.undo()
        assert pool.apply_async(tasks.square, (2,), callback=seen.append).get() == 4
        pool.close()
        pool.join()
    assert seen == [0, 1, 4]


def test_callback_is_the_last_thing_before_the_end() -> None:
    pool = locked_pool(1)
    seen: list[int] = []
    go_on = threading.Event()

    called = threading.Event()

    def callback(x: int) -> None:
        called.set()
        go_on.wait()
        seen.append(x)

    pool.apply_async(tasks.square, (3,), callback=callback)
    called.wait()
    pool.close()
    go_on.set()
    pool.join()
    assert seen == [9]


def test_join_waits_for_the_callbacks_of_errors(tmp_path: Path) -> None:
    pool = locked_pool(1, tasks.count_and_fail, (str(tmp_path / "calls"), "exception"))
    seen: list[BaseException] = []
    joining = threading.Event()

    def callback(error: BaseException) -> None:
        joining.wait()
        seen.append(error)

    pool.apply_async(tasks.square, (3,), error_callback=callback)
    pool.close()
    thread = threading.Thread(target=pool.join)
    thread.start()
    joining.set()
    thread.join()
    assert [type(error) for error in seen] == [InitializerError]


def test_callback_that_joins_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def callback(_: object) -> None:
        pool.close()
        pool.join()

    with locked_pool(1) as pool:
        assert pool.apply_async(tasks.square, (3,), callback=callback).get() == 9
        pool.join()
    assert [args.exc_type for args in reported] == [RuntimeError]


def test_each_job_has_one_outcome_when_callbacks_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    called, go_on = threading.Event(), threading.Event()

    def callback(_: object) -> None:
        called.set()
        go_on.wait()
        seen.append("result")

    with locked_pool(1) as pool:
        results = [
            pool.apply_async(
                tasks.square, (x,), callback=callback, error_callback=lambda _: seen.append("error")
            )
            for x in range(5)
        ]
        called.wait()
        pool.terminate()
        go_on.set()
        for result in results:
            result.wait()
    wait_until(lambda: len(seen) == len(results))
    assert len(seen) == len(results)
    assert seen.count("result") == sum(result.successful() for result in results)
