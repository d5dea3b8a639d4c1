"""Locks whose holder dies, stops, forgets them, or gives them to others."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import Factory, stop, wait_for_pid, wait_until, workers
from poollock import (
    Lock,
    LockedPool,
    RLock,
    Semaphore,
    WorkerDiedError,
    locked_pool,
)
from poollock._supervisor import lock_recovery

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


MADE: dict[str, Callable[..., Any]] = {"RLock": RLock, "Semaphore": partial(Semaphore, 2)}


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_worker_dies_holding_a_lock(factory: Factory, method: str, kind: str) -> None:
    locks = {"guard": MADE[kind](context=method)} if kind != "Lock" else ["guard"]
    with factory(2, locks=locks, context=method) as pool:
        lock = pool.lock
        for times in (1, 2) if kind != "Lock" else (1,):
            victim = pool.apply_async(tasks.take_and, (lock, "SIGKILL", times))
            with pytest.raises(WorkerDiedError, match="it held 'guard', now free again") as caught:
                victim.get()
            assert caught.value.locks_held == ("guard",)
            assert lock.abandoned
            assert lock.holders == ()
            assert [pool.apply(tasks.with_lock, (lock, x)) for x in range(4)] == [0, 1, 2, 3]
            lock.mark_consistent()
            assert not lock.abandoned
        if kind != "Lock":
            assert lock.acquire(block=False)
            assert lock.acquire(block=False)
            if kind == "Semaphore":
                assert not lock.acquire(block=False)
            lock.release()
            lock.release()
            assert not lock.locked()


def test_others_wait_while_the_holder_dies(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "holds"
    holder = pool.apply_async(tasks.hold_while, (pool.lock, str(path)))
    pid = wait_for_pid(path)
    waiter = pool.apply_async(tasks.with_lock, (pool.lock, 5))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError):
        holder.get()
    assert waiter.get() == 5
    pool.lock.mark_consistent()


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_task_leaves_a_lock_held(factory: Factory, method: str, kind: str) -> None:
    locks = {"guard": MADE[kind](context=method)} if kind != "Lock" else ["guard"]
    with factory(1, locks=locks, context=method) as pool:
        with pytest.warns(RuntimeWarning, match="take_and_return.*ended while it held 'guard'"):
            assert pool.apply(tasks.take_and_return, (pool.lock,)) == "done"
        with (
            pytest.warns(RuntimeWarning, match="take_and_raise.*ended while it held 'guard'"),
            pytest.raises(ValueError, match="as ordered"),
        ):
            pool.apply(tasks.take_and_raise, (pool.lock,))
        assert not pool.lock.locked()
        assert pool.lock.holders == ()
        assert not pool.lock.abandoned


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_thread_of_a_worker_keeps_its_lock(factory: Factory, method: str, tmp_path: Path, kind: str) -> None:
    made = MADE[kind](context=method) if kind in MADE else Lock(context=method)
    path = tmp_path / "holds"
    with factory(1, locks={"lock": made}, context=method) as pool:
        pool.apply(tasks.hold_in_a_thread, (str(path),))
        if kind == "Semaphore":
            assert pool.apply(tasks.with_lock, (pool.lock, 3)) == 3  # the other place
        else:
            assert pool.apply(tasks.square, (3,)) == 9
        assert pool.lock.holders == (int(path.read_text()),)
        path.unlink()
        wait_until(lambda: not pool.lock.holders)
        pool.apply(tasks.stay_in_a_thread, (str(path),))
        with pytest.warns(RuntimeWarning, match="which has been released"):
            assert pool.apply(tasks.take_and_return) == "done"
        assert not pool.lock.holders
        path.unlink()


def test_worker_keeps_what_its_initializer_has_taken(factory: Factory, method: str) -> None:
    with factory(1, tasks.take_for_life, context=method) as pool:
        assert pool.map(tasks.square, range(3)) == [0, 1, 4]
        assert pool.lock.holders == tuple(workers(pool))
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(tasks.kill)
        assert caught.value.locks_held == ("lock",)


def test_lock_that_another_process_has_released(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "holds"
    result = pool.apply_async(tasks.take_and_stay, (str(path),))
    wait_until(path.exists)
    pool.lock.release()
    path.unlink()
    assert result.get() is None
    assert not pool.lock.locked()


def test_lock_that_another_process_has_released_is_not_released_again(method: str, tmp_path: Path) -> None:
    """By no later task of the worker that had it: whoever has it next may not have said so yet."""
    path = tmp_path / "holds"
    with locked_pool(1, context=method) as pool:
        result = pool.apply_async(tasks.take_and_stay, (str(path),))
        wait_until(path.exists)
        pool.lock.release()
        path.unlink()
        assert result.get() is None
        assert pool.lock._semlock.acquire()
        assert pool.apply(tasks.square, (3,)) == 9
        assert pool.lock.locked()
        pool.lock._semlock.release()


def test_stopped_worker_is_waited_for(factory: Factory, method: str, tmp_path: Path) -> None:
    path = tmp_path / "holds"
    with factory(2, context=method) as pool:
        holder = pool.apply_async(tasks.hold_while, (pool.lock, str(path)))
        pid = wait_for_pid(path)
        stop(pid)
        waiter = pool.apply_async(tasks.with_lock, (pool.lock, 5))
        path.unlink()
        waiter.wait(1.5)  # longer than it takes to find a lock that nobody has signed for
        assert not waiter.ready()
        assert pool.lock.holder == pid
        os.kill(pid, signal.SIGCONT)
        assert holder.get() == pid
        assert waiter.get() == 5
        assert not pool.lock.abandoned


@pytest.mark.parametrize("kind", [Lock, Semaphore])
def test_worker_dies_before_it_has_signed_for_a_lock(
    method: str, kind: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can prove who has it: the pool ends all of its workers, and then frees it."""
    monkeypatch.setattr(
        lock_recovery, "_PROOF_FOR_OTHERS", lock_recovery._PROOF
    )  # other tests' pools live on
    path = tmp_path / "stays"
    with locked_pool(2, locks={"guard": kind(context=method)}, context=method) as pool:
        busy = pool.apply_async(tasks.stay_while, (str(path),))
        pid = wait_for_pid(path)
        victim = pool.apply_async(tasks.take_unsigned, (pool.lock,))
        waiting = pool.map_async(partial(tasks.with_lock, pool.lock), range(3), chunksize=1)
        with pytest.raises(WorkerDiedError) as caught:
            victim.get()
        assert caught.value.locks_held == ()
        with pytest.raises(WorkerDiedError, match="may have had a lock") as caught:
            busy.get()
        assert caught.value.pid == pid
        with suppress(WorkerDiedError):  # if a worker had begun one of them by then
            assert waiting.get() == [0, 1, 2]
        assert pool.apply(tasks.with_lock, (pool.lock, 5)) == 5
        assert pool.lock.abandoned


def test_lock_that_another_process_is_slow_to_sign_for(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not one of the pool's, and not ended like those: it has the lock."""
    monkeypatch.setattr(lock_recovery, "_PROOF", 0.0)
    monkeypatch.setattr(lock_recovery, "_PROOF_FOR_OTHERS", 1e9)
    taken, sign = tmp_path / "taken", tmp_path / "sign"
    context: Any = multiprocessing.get_context(method)
    lock = Lock(context=method)
    with locked_pool(1, locks={"lock": lock}, context=method) as pool:
        other = context.Process(target=tasks.take_and_sign_late, args=(lock, str(taken), str(sign)))
        other.start()
        wait_until(taken.exists)
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.kill)
        time.sleep(1.0)  # longer than it takes to find that nobody has the lock
        assert lock.locked()
        sign.touch()
        other.join()
        assert not lock.locked()
        assert not lock.abandoned
        assert pool.apply(tasks.with_lock, (lock, 5)) == 5


def test_lock_that_only_the_workers_still_have(method: str, tmp_path: Path) -> None:
    path = tmp_path / "held"
    lock: Any = Lock(context=method)
    with locked_pool(1, context=method) as pool:
        results = [
            pool.apply_async(tasks.hold_while, (lock, str(path))),
            pool.apply_async(tasks.with_lock, (lock, 1)),
        ]
        pid = wait_for_pid(path)
        del lock
        gc.collect()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="it held 'an unnamed Lock'"):
            results[0].get()
        assert results[1].get() == 1
