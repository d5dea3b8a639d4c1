"""task_timeout: a task that does not end is ended, with its worker, and nothing else is."""

from __future__ import annotations

import math
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timeout_tasks as long

from helpers import Factory, running, wait_until
from poollock import TaskTimeoutError, locked_pool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.mark.parametrize("task", [time.sleep, long.compute, long.compute_in_c, long.ignore_sigterm])
def test_task_that_does_not_end(factory: Factory, method: str, task: Any) -> None:
    with factory(2, context=method, task_timeout=1) as pool:
        assert pool.map(long.square, range(4)) == [0, 1, 4, 9]
        result = pool.apply_async(task, (60,))
        others = pool.map_async(long.square, range(100), chunksize=1)
        with pytest.raises(TaskTimeoutError, match=r"took longer than 1 s") as caught:
            result.get()
        assert others.get() == [x * x for x in range(100)]
        wait_until(lambda: not running(caught.value.pid))
        assert pool.apply(long.square, (3,)) == 9
        assert caught.value.items is None
        assert caught.value.locks_held == ()


def test_lock_is_freed_and_marked(factory: Factory, method: str) -> None:
    with factory(2, context=method, task_timeout=1) as pool:
        with pytest.raises(TaskTimeoutError) as caught:
            pool.apply(long.hold_and_sleep, (1,))
        assert caught.value.locks_held == ("lock",)
        pool.apply(long.wait_for_lock, (1,))
        assert pool.lock.abandoned


def test_task_that_waits_for_a_lock(factory: Factory) -> None:
    with factory(2, task_timeout=1) as pool, pool.lock:
        with pytest.raises(TaskTimeoutError):
            pool.apply(long.wait_for_lock, (1,))
        assert pool.lock.locked()
        assert not pool.lock.abandoned


def test_only_the_task_that_took_too_long(factory: Factory) -> None:
    """Those that were sent ahead with it go to others, and each limit begins with its task."""
    with factory(2, task_timeout=0.7) as pool:
        tiny = pool.map_async(long.square, range(1000), chunksize=1)
        late = [pool.apply_async(time.sleep, (60,)) for _ in range(2)]
        after = [pool.apply_async(long.square, (x,)) for x in range(50)]
        for result in late:
            with pytest.raises(TaskTimeoutError):
                result.get()
        assert tiny.get() == [x * x for x in range(1000)]
        assert [result.get() for result in after] == [x * x for x in range(50)]
        assert pool.map(time.sleep, [0.3] * 6, chunksize=1) == [None] * 6  # together longer than the limit


def test_items_of_a_chunk() -> None:
    with locked_pool(2, task_timeout=1) as pool:
        with pytest.raises(TaskTimeoutError, match="items 2 to 3") as caught:
            pool.map(time.sleep, [0, 0, 60, 0], chunksize=2)
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
