"""task_timeout: a task that does not end is ended, with its worker, and nothing else is."""

from __future__ import annotations

import math
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
import timeout_tasks as long

from helpers import Factory, running, wait_for_pid, wait_until
from poollock import LockedPool, TaskTimeoutError, locked_pool
from poollock._worker.worker_socket import BEGUN_AT, LAST_BEGUN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


LIMIT = 50  # seconds; a task that is to end may have to wait for a processor


def make_overdue(pool: LockedPool, path: Path, *, by: float = 3600) -> None:
    """Once a task has written its pid to *path*, have the pool believe that it began so much earlier."""
    pid = wait_for_pid(path)
    event_loop: Any = vars(pool._supervisor)["_event_loop"]
    aged = threading.Event()

    def age() -> None:
        (worker,) = [worker for worker in event_loop._workers if worker.pid == pid]
        words = worker.state.words.view
        if worker.in_flight[0].number == words[LAST_BEGUN]:  # it has read the outcome of the task before
            words[BEGUN_AT] -= int(by * 1e9)
            event_loop._task_timeouts._next_check = 0.0
            aged.set()

    while not aged.is_set():
        event_loop.call(age)  # in its thread, which changes all this itself


def test_limit() -> None:
    late = pytest.raises(TaskTimeoutError, match=r"took longer than 0\.2 s")
    with locked_pool(1, task_timeout=0.2) as pool, late:
        pool.apply(time.sleep, (60,))


@pytest.mark.parametrize("task", [tasks.stay_while, long.compute, long.compute_in_c, long.ignore_sigterm])
def test_task_that_does_not_end(factory: Factory, method: str, task: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with factory(2, context=method, task_timeout=LIMIT) as pool:
        assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
        result = pool.apply_async(task, (str(path),))
        others = pool.map_async(tasks.square, range(100), chunksize=1)
        make_overdue(pool, path)
        with pytest.raises(TaskTimeoutError, match=rf"took longer than {LIMIT} s") as caught:
            result.get()
        assert others.get() == [x * x for x in range(100)]
        wait_until(lambda: not running(caught.value.pid))
        assert pool.apply(tasks.square, (3,)) == 9
        assert caught.value.items is None
        assert caught.value.locks_held == ()


def test_lock_is_freed_and_marked(factory: Factory, method: str, tmp_path: Path) -> None:
    path = tmp_path / "holds"
    with factory(2, context=method, task_timeout=LIMIT) as pool:
        result = pool.apply_async(tasks.hold_while, (pool.lock, str(path)))
        make_overdue(pool, path)
        with pytest.raises(TaskTimeoutError) as caught:
            result.get()
        assert caught.value.locks_held == ("lock",)
        pool.apply(long.wait_for_lock, (str(path),))
        assert pool.lock.abandoned


def test_task_that_waits_for_a_lock(factory: Factory, tmp_path: Path) -> None:
    path = tmp_path / "waits"
    with factory(2, task_timeout=LIMIT) as pool, pool.lock:
        result = pool.apply_async(long.wait_for_lock, (str(path),))
        make_overdue(pool, path)
        with pytest.raises(TaskTimeoutError):
            result.get()
        assert pool.lock.locked()
        assert not pool.lock.abandoned


def test_only_the_task_that_took_too_long(factory: Factory, tmp_path: Path) -> None:
    """Those that were sent ahead with it go to others."""
    paths = [tmp_path / name for name in "ab"]
    with factory(2, task_timeout=LIMIT) as pool:
        tiny = pool.map_async(tasks.square, range(1000), chunksize=1)
        late = [pool.apply_async(tasks.stay_while, (str(path),)) for path in paths]
        after = [pool.apply_async(tasks.square, (x,)) for x in range(50)]
        for path, result in zip(paths, late, strict=True):
            make_overdue(pool, path)
            with pytest.raises(TaskTimeoutError):
                result.get()
        assert tiny.get() == [x * x for x in range(1000)]
        assert [result.get() for result in after] == [x * x for x in range(50)]


def test_each_limit_begins_with_its_task(tmp_path: Path) -> None:
    """Not with the one before it: together they take longer than the limit."""
    path, next_path = tmp_path / "first", tmp_path / "second"
    with locked_pool(1, task_timeout=LIMIT) as pool:
        first = pool.apply_async(tasks.stay_while, (str(path),))
        pid = wait_for_pid(path)
        second = pool.apply_async(tasks.stay_while, (str(next_path),))
        make_overdue(pool, path, by=LIMIT / 2 + 1)
        path.unlink()
        assert first.get() == pid
        make_overdue(pool, next_path, by=LIMIT / 2 + 1)
        next_path.unlink()
        assert second.get() == pid


def test_items_of_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "stays"
    with locked_pool(2, task_timeout=LIMIT) as pool:
        items: list[int | str] = [0, 1, str(path), 2]
        result = pool.map_async(tasks.stay_or_square, items, chunksize=2)
        make_overdue(pool, path)
        with pytest.raises(TaskTimeoutError, match="items 2 to 3") as caught:
            result.get()
        assert caught.value.items == range(2, 4)


@pytest.mark.parametrize("limit", [1e10, math.inf])
def test_limit_that_no_system_call_takes(limit: float) -> None:
    with locked_pool(1, task_timeout=limit) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("5", TypeError)]
)
def test_wrong_limit(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="task_timeout must be"):
        locked_pool(1, task_timeout=limit)


def test_error_survives_pickling(tmp_path: Path) -> None:
    error = TaskTimeoutError(1.5, "work, item 3", range(3, 4), 12, ("log",))
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert str(again) == str(error)
