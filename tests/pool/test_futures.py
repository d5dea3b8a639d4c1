"""LockedPool.submit, whose futures are those of concurrent.futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import Factory, handled_at, kill, wait_for_pid, wait_until, workers
from poollock import BrokenPoolError, InitializerError, LockedPool, WorkerDiedError, locked_pool
from tasks import append


def test_result_and_exception(pool: LockedPool) -> None:
    assert pool.submit(tasks.square, 3).result() == 9
    assert isinstance(pool.submit(tasks.run, "exception").exception(), ValueError)
    assert pool.submit(tasks.with_lock, pool.lock, 5).result() == 5
    futures = [pool.submit(tasks.square, x) for x in range(10)]
    done = concurrent.futures.wait(futures).done
    assert sorted(future.result() for future in done) == [x * x for x in range(10)]
    assert len(list(concurrent.futures.as_completed(futures))) == 10


def test_asyncio(pool: LockedPool) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        executor: Any = pool
        several = [loop.run_in_executor(executor, tasks.square, x) for x in range(5)]
        return await asyncio.gather(*several, asyncio.wrap_future(pool.submit(tasks.square, 5)))

    assert asyncio.run(main()) == [0, 1, 4, 9, 16, 25]


def test_what_has_begun_cannot_be_cancelled(factory: Factory, method: str, tmp_path: Path) -> None:
    path, never = tmp_path / "stays", tmp_path / "never"
    with factory(1, context=method) as pool:
        first = pool.submit(tasks.stay_while, str(path))
        second = pool.submit(tasks.stay_while, str(never))
        wait_for_pid(path)
        assert first.running()
        assert not first.cancel()
        assert not second.running()
        assert second.cancel()
        assert second.cancelled()
        path.unlink()
        assert first.result()
        assert pool.submit(tasks.square, 2).result() == 4
    assert not never.exists()
    assert not first.running()


def note(path: str, x: int) -> int:
    """Write into a file that this has run."""
    append(path, f"{x}\n")
    return x * x


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_cancelled_at_random_while_workers_are_killed(
    factory: Factory, count: int, method: str, tmp_path: Path
) -> None:
    """Each future has one end, what was cancelled has not run, and nothing has run twice."""
    generator = random.Random(1)
    ran = tmp_path / "ran"
    busy = [tmp_path / f"busy-{number}" for number in range(4)]
    with factory(4, context=method) as pool:
        for path in busy:
            pool.submit(tasks.stay_while, str(path))
        futures = [pool.submit(note, str(ran), x) for x in range(count)]
        for path in busy:
            wait_for_pid(path)
        assert futures[0].cancel()
        for path in busy:
            path.unlink()
        for future in generator.sample(futures, count // 3):
            future.cancel()
            if generator.random() < 30 / count and (pids := workers(pool)):
                kill(generator.choice(pids))
        concurrent.futures.wait(futures)
        for x, future in enumerate(futures):
            if not future.cancelled() and not isinstance(future.exception(), WorkerDiedError):
                assert future.result() == x * x
        assert pool.submit(tasks.square, 3).result() == 9
    cancelled = {x for x, future in enumerate(futures) if future.cancelled()}
    assert 0 in cancelled
    have_run = [int(x) for x in ran.read_text().split()]
    assert cancelled.isdisjoint(have_run)
    assert len(have_run) == len(set(have_run))


def test_signal_handler_that_raises_while_a_future_is_cancelled(tmp_path: Path) -> None:
    """The other tasks are run all the same, wherever in ``cancel`` it comes."""
    with locked_pool(1) as pool:
        number, is_within = 0, True
        while is_within:
            number += 1
            path = tmp_path / str(number)
            first = pool.submit(tasks.stay_while, str(path))
            others = [pool.submit(tasks.square, x) for x in range(5)]
            wait_for_pid(path)
            is_within = handled_at(number, others[2].cancel)
            path.unlink()
            assert first.result()
            assert [other.result() for other in others if other is not others[2]] == [0, 1, 9, 16]
            assert others[2].cancelled() or others[2].result() == 4
        assert number > 2


def test_pool_that_is_broken_sets_the_error(factory: Factory, method: str) -> None:
    with factory(2, tasks.run, ("exception",), context=method) as pool:
        assert isinstance(pool.submit(tasks.square, 2).exception(), InitializerError)


def test_cancelled_after_the_end(tmp_path: Path) -> None:
    with locked_pool(1) as pool:
        future = pool.submit(tasks.stay_while, str(tmp_path / "stays"))
    assert not future.cancel()


def test_waits_of_concurrent_futures(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "stays"
    long = pool.submit(tasks.stay_while, str(path))
    wait_for_pid(path)
    tiny = pool.submit(tasks.square, 3)
    first = concurrent.futures.wait([long, tiny], return_when=concurrent.futures.FIRST_COMPLETED)
    assert (first.done, first.not_done) == ({tiny}, {long})
    with pytest.raises(concurrent.futures.TimeoutError):
        long.result(timeout=0.01)
    path.unlink()
    assert long.result()


def test_callbacks_run_in_the_thread_for_them(pool: LockedPool, tmp_path: Path) -> None:
    called = threading.Event()
    go_on = threading.Event()
    names: list[str] = []

    def callback(future: Any) -> None:
        names.append(threading.current_thread().name)
        called.set()
        go_on.wait()

    path = tmp_path / "stays"
    future = pool.submit(tasks.stay_while, str(path))
    pid = wait_for_pid(path)
    future.add_done_callback(callback)
    path.unlink()
    called.wait()
    assert pool.submit(tasks.square, 4).result() == 16  # it keeps nobody from a result
    go_on.set()
    future.add_done_callback(lambda done: names.append(str(done.result())))
    wait_until(lambda: len(names) == 2)
    assert names == ["poollock-callbacks", str(pid)]


def test_pool_that_is_terminated_sets_the_error(tmp_path: Path) -> None:
    path = tmp_path / "stays"
    with locked_pool(1) as pool:
        futures = [pool.submit(tasks.stay_while, str(path)), pool.submit(tasks.square, 2)]
        wait_for_pid(path)
    for future in futures:
        assert isinstance(future.exception(), BrokenPoolError)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.submit(tasks.square, 2)


def test_worker_that_dies(pool: LockedPool) -> None:
    error = pool.submit(tasks.kill).exception()
    assert isinstance(error, WorkerDiedError)
    assert error.items is None
    with pytest.raises(WorkerDiedError) as caught:
        pool.map(tasks.run, ["none", "none", "SIGKILL", "none"], chunksize=2)
    assert caught.value.items == range(2, 4)
    with pytest.raises(WorkerDiedError) as caught:
        pool.starmap(tasks.run, [("none",), ("none",), ("SIGKILL",)], chunksize=1)
    assert caught.value.items == range(2, 3)
    for chunksize, items in ((1, range(1, 2)), (2, range(2))):
        with pytest.raises(WorkerDiedError) as caught:
            list(pool.imap(tasks.run, ["none", "SIGKILL", "none"], chunksize))
        assert caught.value.items == items
