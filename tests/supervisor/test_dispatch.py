"""Which worker gets which task, and when."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import wait_for_pid, wait_until
from poollock import LockedPool, locked_pool
from poollock._supervisor.event_loop import EventLoop


def test_no_task_waits_behind_a_long_one(pool: LockedPool, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"stays-{number}"
        # Tiny ones first, so that many are sent ahead.
        items: list[str | int] = [*range(2000), str(path), *range(500)]
        results = pool.imap_unordered(tasks.stay_or_square, items)
        tiny = [next(results) for _ in range(2500)]
        assert sorted(tiny) == sorted(x * x for x in [*range(2000), *range(500)])
        pid = wait_for_pid(path)  # it still runs
        path.unlink()
        assert list(results) == [pid]


def test_two_long_ones_side_by_side(pool: LockedPool, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    results = pool.imap(tasks.stay_or_square, [*range(1000), *paths, *range(10)])
    assert [next(results) for _ in range(1000)] == [x * x for x in range(1000)]
    wait_until(lambda: all(map(os.path.exists, paths)))
    for path in paths:
        os.unlink(path)
    pids = [next(results) for _ in paths]
    assert len(set(pids)) == 2
    assert list(results) == [x * x for x in range(10)]


def test_imap_keeps_the_order(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "first"
    results = pool.imap(tasks.stay_or_square, [str(path), *range(300)])
    pid = wait_for_pid(path)
    later = pool.map_async(tasks.square, range(10), chunksize=1)
    assert later.get() == [x * x for x in range(10)]  # by the other worker
    path.unlink()
    assert next(results) == pid
    assert list(results) == [x * x for x in range(300)]


def test_items_are_not_taken_far_ahead(tmp_path: Path) -> None:
    taken: list[int] = []
    path = tmp_path / "stays"

    def items() -> Iterator[int | str]:
        yield str(path)
        for number in range(100_000):
            taken.append(number)
            yield number

    with locked_pool(1) as pool:
        _results = pool.imap(tasks.stay_or_square, items())
        wait_for_pid(path)
        wait_until(lambda: len(taken) > 100)
        time.sleep(0.1)  # more would be taken now
        pool.terminate()
        assert len(taken) < 1000
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "poollock-iterable"])


def test_pipes_that_are_full(pool: LockedPool, tmp_path: Path) -> None:
    """Tasks of some size are sent ahead, and taken back when one of them is long."""
    filler = "x" * 14_000
    path = tmp_path / "stays"
    results = pool.imap_unordered(tasks.stay_or_size, [*[filler] * 500, str(path), *[filler] * 500])
    assert [next(results) for _ in range(1000)] == [14_000] * 1000
    pid = wait_for_pid(path)
    path.unlink()
    assert list(results) == [pid]


def test_task_is_sent_later_if_there_is_no_memory_for_it(
    pool: LockedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, send = iter(range(3)), socket.socket.send

    def fail_first(sock: socket.socket, data: Any, *flags: int) -> int:
        if len(data) > 1000 and next(failures, None) is not None:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return send(sock, data, *flags)

    monkeypatch.setattr(socket.socket, "send", fail_first)
    assert pool.apply(tasks.size, (bytes(10_000),)) == 10_000
    assert next(failures, None) is None


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="a socket there takes it at once, and the pool keeps what it has sent until the task is done",
)
def test_large_argument_is_kept_by_its_worker_alone(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "stays"
    tracemalloc.start()
    try:
        result = pool.apply_async(tasks.size_and_stay, (bytes(8 << 20), str(path)))
        wait_until(path.exists)
        wait_until(lambda: tracemalloc.get_traced_memory()[0] < 8 << 20)
    finally:
        tracemalloc.stop()
    path.unlink()
    assert result.get() == 8 << 20


def test_pool_that_has_nothing_to_do_sleeps(pool: LockedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large task has waited for room in a pipe, which nobody wants any more."""
    rounds = 0
    run_once = EventLoop.run_once

    def count(event_loop: EventLoop) -> None:
        nonlocal rounds
        rounds += 1
        run_once(event_loop)

    monkeypatch.setattr(EventLoop, "run_once", count)
    assert pool.apply(tasks.size, (bytes(8 << 20),)) == 8 << 20
    before = rounds
    time.sleep(0.4)  # nothing may happen, and nothing tells of that
    assert before > 0
    assert rounds - before < 20
