"""What close, terminate and a fork do to whoever waits."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fault_tasks as tasks
import pytest

from helpers import Factory, needs_posix, running, stop, wait_for_pid, wait_until, workers
from poollock import (
    BrokenPoolError,
    LockedPool,
    PoolLockError,
    locked_pool,
)


@pytest.mark.parametrize("end", ["terminate", "with", "close"])
def test_whoever_waits_when_the_pool_ends(factory: Factory, method: str, tmp_path: Path, end: str) -> None:
    path = tmp_path / "stays"
    errors: list[BaseException] = []
    pool = factory(1, context=method)
    with pool:
        running_one = pool.apply_async(tasks.stay_while, (str(path),), error_callback=errors.append)
        waiting = pool.map_async(tasks.square, range(100), error_callback=errors.append)
        iterator = pool.imap(tasks.square, range(10))
        unordered = pool.imap_unordered(tasks.square, itertools.count())
        wait_for_pid(path)
        if end == "close":
            pool.close()
            path.unlink()
        else:
            pool.terminate()
    if end == "close":
        return
    for result in (running_one, waiting):
        with pytest.raises(BrokenPoolError, match="terminated"):
            result.get()
    for results in (iterator, unordered):
        with pytest.raises(BrokenPoolError, match="terminated"):
            list(results)
    wait_until(lambda: len(errors) == 2)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(tasks.square, (1,))


def test_task_given_while_the_pool_is_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    with locked_pool(1) as pool:
        pool.terminate()
        monkeypatch.setattr(pool, "_check_running", lambda: None)  # it was looked at just before
        with pytest.raises(BrokenPoolError):
            pool.apply(tasks.square, (1,))
        with pytest.raises(BrokenPoolError):
            pool.map(tasks.square, [1])
        with pytest.raises(BrokenPoolError):
            next(pool.imap(tasks.square, [1]))


def test_task_given_while_the_pool_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = locked_pool(1)
    pool.close()
    monkeypatch.setattr(pool, "_check_running", lambda: None)
    result = pool.apply_async(tasks.square, (1,))
    pool.join()
    with suppress(BrokenPoolError):
        assert result.get() == 1


@needs_posix
def test_terminate_ends_stopped_workers(factory: Factory, method: str) -> None:
    with factory(2, context=method) as pool:
        pool.map(tasks.square, range(4))
        pids = workers(pool)
        stop(pids[0])
    assert not any(running(pid) for pid in pids)


def test_terminate_by_another_thread_after_close(factory: Factory, method: str) -> None:
    with factory(2, context=method) as pool:
        pool.apply_async(time.sleep, (20,))
        pool.close()
        pids = workers(pool)
        thread = threading.Thread(target=pool.terminate)
        thread.start()
        thread.join()
        assert not any(running(pid) for pid in pids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_pool_of_the_parent_in_a_forked_process(factory: Factory) -> None:
    context = multiprocessing.get_context("fork")
    with factory(1, context=context) as pool:
        process = context.Process(target=_use_pools, args=(pool,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert pool.apply(tasks.square, (3,)) == 9


def _use_pools(pool: LockedPool) -> None:
    for use in (pool.apply, pool.map, pool.imap, pool.apply_async):
        with pytest.raises(ValueError, match="belongs to the process that made it"):
            use(tasks.square, (3,))
    pool.terminate()


def test_items_that_come_while_the_pool_is_closed() -> None:
    pool = locked_pool(1)

    def items() -> Iterator[int]:
        pool.close()
        pool.join()
        yield 1

    with pytest.raises(BrokenPoolError):
        pool.map(tasks.square, items(), chunksize=1)


def test_error_whose_module_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when no descriptor is left: whoever waits learns what happened all the same."""
    monkeypatch.setitem(sys.modules, "poollock._broken", None)
    with locked_pool(1) as pool:
        result = pool.apply_async(tasks.stay_while, (str(tmp_path / "stays"),))
        pool.terminate()
        with pytest.raises(PoolLockError, match="terminated"):
            result.get()
