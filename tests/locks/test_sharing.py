"""Every way for a task to come by its lock, with both factories, on every start method."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tasks
from poollock import Lock, LockedPool, LockNotInstalledError, RLock, Semaphore, current_lock, locked_pool

TIMES = 40


@pytest.fixture
def counter(tmp_path: Path) -> str:
    path = tmp_path / "counter"
    path.write_text("0")
    return str(path)


def call_apply(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return [pool.apply(task, (item,)) for _ in range(TIMES)]


def call_apply_async(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    results = [pool.apply_async(task, (item,)) for _ in range(TIMES)]
    return [result.get() for result in results]


def call_map(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return pool.map(task, [item] * TIMES, chunksize=3)


def call_map_async(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return pool.map_async(task, [item] * TIMES).get()


def call_imap(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return list(pool.imap(task, [item] * TIMES))


def call_imap_unordered(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return list(pool.imap_unordered(task, [item] * TIMES, chunksize=4))


def call_starmap(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return pool.starmap(task, [(item,)] * TIMES)


def call_starmap_async(pool: LockedPool, task: Callable[..., int], item: Any) -> list[int]:
    return pool.starmap_async(task, ((item,) for _ in range(TIMES))).get()


CALLS = [
    call_apply,
    call_apply_async,
    call_map,
    call_map_async,
    call_imap,
    call_imap_unordered,
    call_starmap,
    call_starmap_async,
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "task", [tasks.add_one, tasks.add_one_after, tasks.add_one_keyword, tasks.add_one_current]
)
def test_every_method_gives_the_lock(
    pool: LockedPool,
    call: Callable[..., list[int]],
    task: Callable[..., int],
    counter: str,
) -> None:
    assert sorted(call(pool, task, counter)) == list(range(1, TIMES + 1))


@pytest.mark.parametrize("call", CALLS)
def test_the_program_that_everybody_tries_first(
    pool: LockedPool, call: Callable[..., list[int]], counter: str
) -> None:
    task = partial(tasks.add_one_default, lock=pool.lock)
    assert sorted(call(pool, task, counter)) == list(range(1, TIMES + 1))


def test_lock_inside_the_data(pool: LockedPool, counter: str) -> None:
    counts = pool.starmap(tasks.add_one_default, [(counter, pool.lock)] * TIMES)
    assert sorted(counts) == list(range(1, TIMES + 1))


def test_methods_and_callable_objects(pool: LockedPool, counter: str) -> None:
    made = tasks.Counter(counter)
    counts = pool.map(made.bound, range(10))
    counts += pool.map(made, range(10))
    counts += pool.map(tasks.Counter.static, [counter] * 10)
    counts += pool.map(tasks.Counter.klass, [counter] * 10)
    counts += pool.map(partial(tasks.add_one_keyword), [counter] * 10)
    assert sorted(counts) == list(range(1, 51))


def test_callbacks(pool: LockedPool, counter: str) -> None:
    got: list[object] = []
    pool.map_async(tasks.add_one, [counter] * 3, chunksize=3, callback=got.append).wait()
    pool.apply_async(tasks.fail, (7,), error_callback=got.append).wait()
    pool.starmap_async(tasks.add_one, [(counter,)], callback=got.append).wait()
    assert got[0] == [1, 2, 3]
    assert repr(got[1]) == "ValueError(7)"
    assert got[2] == [4]


def test_failing_task_gives_the_lock_back(pool: LockedPool, counter: str) -> None:
    with pytest.raises(ValueError, match="5"):
        pool.map(tasks.fail, [5])
    assert pool.lock.holder == 0
    assert pool.map(tasks.add_one, [counter]) == [1]


def test_call_that_works_alone_is_not_touched(pool: LockedPool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # once for each function
        assert pool.map(tasks.lock_or_number, [1, 2]) == [1, 2]  # it fills the parameter called lock
    assert pool.starmap(tasks.add, [(1, 2), (3,)]) == [3, 3]
    assert pool.map(str, [1, 2]) == ["1", "2"]


def test_holder_is_the_worker(pool: LockedPool) -> None:
    for pid, holder, holders in pool.map(tasks.holder_seen, range(10)):
        assert holder == pid
        assert holders == 1
    assert pool.lock.holder == 0


def test_lock_of_a_condition(pool: LockedPool) -> None:
    lock: Any = pool.lock
    condition = multiprocessing.Condition(lock)
    with condition:
        assert lock.locked()
        if isinstance(lock, Lock):
            condition.notify()
            assert not condition.wait(timeout=0.01)
        else:
            with pytest.raises(TypeError, match=r"in a manager process.*give that a Lock or an RLock"):
                condition.wait()
    assert not lock.locked()


def test_lock_comes_back_as_itself(pool: LockedPool) -> None:
    assert pool.apply(tasks.give_back, (pool.lock,)) is pool.lock


def test_parent_takes_the_lock_too(pool: LockedPool) -> None:
    with pool.lock:
        assert pool.lock.locked()
        assert not pool.apply(tasks.try_lock)
    assert pool.apply(tasks.try_lock)


def test_lock_held_by_a_worker_is_seen_in_the_parent(pool: LockedPool, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    result = pool.apply_async(tasks.hold_until, (str(flag),))
    while not flag.exists():
        result.wait(0.005)
    holder = pool.lock.holder
    assert holder
    assert repr(pool.lock).endswith(f"'lock' held by {holder}>")
    with (
        pytest.raises(TimeoutError, match=f"lock 'lock', which is held by process {holder}"),
        pool.lock.hold(0.01),
    ):
        pass
    flag.unlink()
    result.get()
    with pool.lock.hold(30):
        assert pool.lock.locked()


def test_named_locks_and_initializer(factory: Callable[..., LockedPool], method: str) -> None:
    with factory(2, tasks.remember, ("word",), locks=("log", "api", "lock"), context=method) as pool:
        assert pool.map(tasks.with_two, [1, 2]) == [("log", "api", 1), ("log", "api", 2)]
        assert pool.map(tasks.remembered, range(2)) == [["word"]] * 2
        assert pool.map(tasks.current_name, ["log", "api"]) == ["log", "api"]
        assert pool.lock is pool.locks["lock"]
        assert list(pool.locks) == ["log", "api", "lock"]
        with pytest.raises(
            LockNotInstalledError, match=r"no lock 'door' .*Worker.*only 'log', 'api', 'lock'"
        ):
            pool.map(tasks.current_name, ["door"])


def test_other_kinds_of_lock(factory: Callable[..., LockedPool], method: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.touch()
    locks = {"api": Semaphore(2, context=method), "lock": RLock(context=method)}
    with factory(4, locks=locks, context=method) as pool:
        pool.map(partial(tasks.mark, path=str(marks)), range(60), chunksize=1)
        inside = most = 0
        for character in marks.read_text():
            inside += 1 if character == "+" else -1
            most = max(most, inside)
        assert most == 2
        assert inside == 0
        holders = pool.map(tasks.reenter, [3] * 4)
        assert all(holders)
        assert pool.lock.holder == 0
        assert pool.locks["api"].holders == ()


def test_workers_that_replace_others_have_the_locks(
    factory: Callable[..., LockedPool], method: str, counter: str
) -> None:
    with factory(2, maxtasksperchild=2, context=method) as pool:
        counts = pool.map(tasks.add_one, [counter] * 12, chunksize=1)
        pids = {pid for pid, _, _ in pool.map(tasks.holder_seen, range(8), chunksize=1)}
    assert sorted(counts) == list(range(1, 13))
    assert len(pids) > 2


def test_lock_made_before_the_pool(method: str, counter: str) -> None:
    lock = Lock(context=method)
    context: Any = multiprocessing.get_context(method)
    with LockedPool(2, context=context) as pool:
        counts = pool.starmap(tasks.add_one, [(lock, counter)] * 20)
    assert sorted(counts) == list(range(1, 21))


def test_somebody_elses_executor(method: str, counter: str) -> None:
    lock = Lock(context=method)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context, initializer=lock.install) as executor:
        counts = list(executor.map(partial(tasks.add_one, lock), [counter] * 20))
        counts += list(executor.map(tasks.add_one_current, [counter] * 20))
    assert sorted(counts) == list(range(1, 41))


def test_several_locks_in_somebody_elses_pool(method: str) -> None:
    locks = Lock(context=method), Semaphore(3, context=method)
    with multiprocessing.get_context(method).Pool(1, install_two, locks) as pool:
        assert pool.map(current_lock, ["one", "two"]) == list(locks)
        pool.close()
        pool.join()


def install_two(one: Lock, two: Semaphore) -> None:
    one.install("one")
    two.install("two")


def test_somebody_elses_pool(method: str, counter: str) -> None:
    lock = Lock(context=method)
    with multiprocessing.get_context(method).Pool(2, initializer=lock.install) as pool:
        counts = pool.map(partial(tasks.add_one, lock), [counter] * 20)
        counts += pool.map(tasks.add_one_current, [counter] * 20)
        pool.close()
        pool.join()
    assert sorted(counts) == list(range(1, 41))


def test_lock_that_never_reached_the_worker(factory: Callable[..., LockedPool], method: str) -> None:
    with factory(1, context=method) as pool:
        late = Lock(context=method)
        with pytest.raises(LockNotInstalledError, match=r"Worker-.*make the lock before the pool"):
            pool.apply(tasks.try_lock, (late,))
        assert pool.apply(tasks.give_back, (late,)) is late


@pytest.mark.skipif(sys.platform == "win32", reason="a semaphore has no name there, and is open in both")
@pytest.mark.parametrize("make", [Lock, RLock, Semaphore])
def test_lock_whose_maker_has_ended_does_not_stop_a_pool(make: Callable[..., Any]) -> None:
    """A process that got a lock as it started, and whose parent then dropped it, makes a pool."""
    context = multiprocessing.get_context("spawn")
    lock = make(context=context)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = context.Process(target=make_a_pool, args=(lock, sender))
    process.start()
    assert receiver.recv() == "the lock is here"
    del lock
    gc.collect()
    assert receiver.recv() == [1, 2]
    process.join()


def make_a_pool(lock: Any, sender: Any) -> None:
    sender.send("the lock is here")
    # The semaphore's name is gone when the maker drops its lock; wait for that.
    name = lock._semlock.name.lstrip("/")
    while any(name in entry for entry in os.listdir("/dev/shm")):
        time.sleep(0.005)
    with locked_pool(1, context="spawn") as pool:
        sender.send(pool.map(tasks.add, [1, 2]))


def test_lock_that_was_not_installed_in_somebody_elses_pool() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(LockNotInstalledError, match=r"initializer=lock\.install"):
            pool.apply(tasks.try_lock, (Lock(context="spawn"),))
        pool.close()
        pool.join()
