"""A pool on a cluster, as long as nothing dies: the methods, the locks, the errors."""

from __future__ import annotations

import logging
import os
import pickle
import re
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra poollock[dask] is not installed")


import cluster_tasks as tasks
from cluster_tasks import Stage
from clusters import Client, local_cluster
from helpers import TESTS, handled_at, start_program, wait_until
from poollock import (
    BrokenPoolError,
    DeadlockError,
    LockedLogHandler,
    LockedPool,
    LockTimeoutError,
    PoolLockError,
    RLock,
    Semaphore,
    dask,
    locked_pool,
)
from poollock.dask import DaskLockedPool, DaskWorkerDiedError, Holder, dask_locked_pool
from poollock.dask._member import Member
from poollock.dask._session import Session


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    path = tmp_path / "counter"
    path.write_text("0")
    return path


def test_every_method(pool: DaskLockedPool) -> None:
    assert pool.map(tasks.square, range(50)) == [x * x for x in range(50)]
    assert pool.map(tasks.square, range(5), chunksize=1) == [0, 1, 4, 9, 16]
    assert pool.map(tasks.square, []) == []
    assert list(pool.imap(tasks.square, range(20))) == [x * x for x in range(20)]
    assert sorted(pool.imap_unordered(tasks.square, range(20), chunksize=3)) == [x * x for x in range(20)]
    assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert pool.apply(pow, (2, 5)) == 32
    assert pool.apply(int, ("12",), {"base": 3}) == 5
    got: list[object] = []
    assert pool.map_async(tasks.square, [3], callback=got.append).get() == [9]
    assert pool.starmap_async(pow, [(2, 2)]).get() == [4]
    assert pool.apply_async(tasks.square, (3,), callback=got.append).get() == 9
    assert got == [[9], 9]
    assert pool.submit(tasks.square, 4).result() == 16


def test_it_is_a_locked_pool(pool: DaskLockedPool) -> None:
    assert isinstance(pool, LockedPool)
    assert "DaskLockedPool on <Client" in repr(pool)


def test_functions_that_no_module_has(pool: DaskLockedPool) -> None:
    y = 3

    def add(x: int) -> int:
        return x + y

    assert pool.map(add, range(3)) == [3, 4, 5]


def test_the_lock_is_where_the_function_looks_for_it(pool: DaskLockedPool, counter: Path) -> None:
    pool.starmap(tasks.count, [(counter, x) for x in range(20)], chunksize=1)
    pool.map(partial(tasks.count, pool.lock, counter), range(20), chunksize=1)
    pool.map(partial(tasks.count_with_current_lock, counter), range(20), chunksize=1)
    pool.starmap(tasks.count, [(pool.lock, counter, x) for x in range(20)], chunksize=1)
    with pool.lock:
        assert counter.read_text() == "80"


def test_two_pools_have_each_their_own_locks(client: Any, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with dask_locked_pool(client) as one, dask_locked_pool(client) as two:
        result = one.apply_async(tasks.hold, (stage,))
        stage.pids()
        assert two.apply(tasks.take)[1] is False
        assert one.lock.locked()
        stage.let_go()
        result.get()


def test_a_pool_can_use_the_lock_of_another(client: Any, counter: Path) -> None:
    with dask_locked_pool(client) as one, dask_locked_pool(client, locks={"lock": one.lock}) as two:
        results = [
            pool.starmap_async(tasks.count, [(counter, x) for x in range(20)], chunksize=1)
            for pool in (one, two)
        ]
        assert [len(result.get()) for result in results] == [20, 20]
    assert counter.read_text() == "40"


def test_a_task_of_dasks_own_can_use_the_lock(client: Any, pool: DaskLockedPool) -> None:
    pid, abandoned = client.submit(tasks.take, pool.lock, pure=False).result()
    assert pid != os.getpid()
    assert not abandoned


def test_who_has_a_lock(client: Any, pool: DaskLockedPool) -> None:
    holder = pool.apply(tasks.holder_seen)
    assert holder.pid in client.run(os.getpid).values()
    assert client.run(os.getpid)[holder.worker] == holder
    assert holder.task == "holder_seen"
    assert pool.lock.holder == 0
    with pool.lock:
        mine: Any = pool.lock.holder
        assert (mine, mine.worker, mine.task) == (os.getpid(), "", "")
        assert str(os.getpid()) in repr(pool.lock)
        assert pool.lock.locked()
    assert repr(pool.lock) == "<DaskLock 'lock' free>"


def test_a_holder_survives_pickling() -> None:
    holder = Holder(5, "host", "tcp://1", "task")
    copy = pickle.loads(pickle.dumps(holder))
    assert (copy, copy.pid, copy.host, copy.worker, copy.task) == (5, 5, "host", "tcp://1", "task")
    assert str(copy) == "5 on host (tcp://1, task)"


def test_a_lock_that_is_not_free_in_time(pool: DaskLockedPool, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    result = pool.apply_async(tasks.hold, (stage,))
    (pid,) = stage.pids()
    with pytest.raises(LockTimeoutError, match=rf"held by process {pid} on .*\(tcp://.*, hold\)") as caught:
        pool.apply(tasks.wait_with_limit, (0.01,))
    assert caught.value.holders == (pid,)
    assert not pool.lock.acquire(block=False)
    assert not pool.lock.acquire(timeout=0.01)
    with pytest.raises(LockTimeoutError, match=f"process {pid}"), pool.lock.hold(0.01):
        pass
    stage.let_go()
    result.get()
    with pool.lock.hold(5):
        pass


def test_a_lock_is_released_once(pool: DaskLockedPool) -> None:
    pool.lock.acquire()
    pool.lock.release()
    with pytest.raises(ValueError, match="not held"):
        pool.lock.release()


def test_another_thread_may_release_it(pool: DaskLockedPool) -> None:
    pool.lock.acquire()
    thread = threading.Thread(target=pool.lock.release)
    thread.start()
    thread.join()
    assert not pool.lock.locked()


def test_an_rlock(client: Any) -> None:
    with dask_locked_pool(client, locks={"lock": RLock()}) as pool:
        assert pool.apply(tasks.reenter, (3,)) == 1
        with pool.lock, pool.lock:
            assert pool.lock.holder == os.getpid()
        assert not pool.lock.locked()
        with pytest.raises(AssertionError, match="not held by this thread"):
            pool.lock.release()


def test_a_semaphore(client: Any, tmp_path: Path) -> None:
    stages = [Stage(tmp_path, name) for name in range(3)]
    with dask_locked_pool(client, locks={"lock": Semaphore(2)}) as pool:
        results = [pool.apply_async(tasks.hold, (stage,)) for stage in stages]
        wait_until(lambda: len(pool.lock.holders) == 2)
        assert pool.lock.locked()
        assert sum(stage.begun.exists() for stage in stages) <= 2
        for stage in stages:
            stage.let_go()
        for result in results:
            result.get()
        assert (pool.lock.value, pool.lock.get_value()) == (2, 2)


def test_a_semaphore_that_nobody_could_take(client: Any) -> None:
    with pytest.raises(ValueError, match="0 places"):
        dask_locked_pool(client, locks={"lock": Semaphore(0)})


def test_a_lock_that_a_task_leaves_held_is_released(pool: DaskLockedPool) -> None:
    with pytest.warns(RuntimeWarning, match="leave_held ended while it held 'lock'"):
        pool.apply(tasks.leave_held)
    assert pool.apply(tasks.take)[1] is False


def test_a_deadlock(client: Any, tmp_path: Path) -> None:
    one, two = Stage(tmp_path, 1), Stage(tmp_path, 2)
    with dask_locked_pool(client, locks=("first", "second")) as pool:
        first, second = pool.locks["first"], pool.locks["second"]
        results = [
            pool.apply_async(tasks.two_locks, (first, second, one, two)),
            pool.apply_async(tasks.two_locks, (second, first, two, one)),
        ]
        outcomes: list[object] = []
        for result in results:
            try:
                outcomes.append(result.get())
            except DeadlockError as error:
                outcomes.append(sorted(wait.lock for wait in error.waits))
        assert sorted(outcomes, key=str) == [["lock 'first'", "lock 'second'"], "both"]


def test_a_lock_taken_twice(pool: DaskLockedPool) -> None:
    with pytest.raises(DeadlockError, match="RLock"):
        pool.apply(tasks.take_twice)
    assert not pool.lock.locked()


def test_a_client_that_holds_what_its_task_needs(pool: DaskLockedPool) -> None:
    with pool.lock, pytest.raises(DeadlockError, match="release the lock before you wait") as caught:
        pool.apply(tasks.take)
    assert caught.value.pool_pid == os.getpid()


def test_which_tasks_wait(pool: DaskLockedPool) -> None:
    with pool.lock:
        result = pool.apply_async(tasks.take)
        wait_until(lambda: bool(pool.lock_waits()))
        (wait,) = pool.lock_waits()
        assert (wait.task, wait.lock, wait.holders) == ("take", "lock 'lock'", (os.getpid(),))
    result.get()
    assert pool.lock_waits() == []


def test_what_a_task_raises(pool: DaskLockedPool) -> None:
    with pytest.raises(ValueError, match="7"):
        pool.map(tasks.fail, [7])
    with pytest.raises(SystemExit):
        pool.apply(tasks.exit_task)
    with pytest.raises(Exception, match="stays here"):
        pool.apply(tasks.unsendable)
    with pytest.raises(TypeError, match="cannot be sent") as caught:
        pool.apply(tasks.square, (threading.Lock(),))
    assert "argument 0" in str(caught.value)
    assert list(pool.map(tasks.square, [1])) == [1]


def test_a_large_result(pool: DaskLockedPool) -> None:
    assert [len(result) for result in pool.imap(tasks.large, [1 << 22, 5, 1 << 21])] == [1 << 22, 5, 1 << 21]


def test_a_large_function_travels_once_a_job_to_each_worker(client: Any, pool: DaskLockedPool) -> None:
    def sent(dask_scheduler: Any) -> int:
        return sum(len(state.function) for state in dask_scheduler.plugins["poollock"]._tasks.jobs.values())

    ballast = os.urandom(1 << 20)

    def size(_: int) -> int:
        return len(ballast)

    results = pool.imap(size, range(50))
    assert next(results) == 1 << 20
    assert client.run_on_scheduler(sent) < 1 << 21  # one copy, though there are 50 tasks
    assert list(results) == [1 << 20] * 49
    received = client.run(lambda: {pid: len(each) for pid, each in [(os.getpid(), _functions())]})
    assert all(1 <= count <= 16 for count in received.values() for count in count.values())


def _functions() -> dict[str, bytes]:
    from poollock.dask import _session  # noqa: PLC0415 - in the worker

    (session,) = _session._by_cluster.values()
    return session.functions


def test_an_endless_iterable_stays_within_its_buffer(pool: DaskLockedPool) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken - 1

    results = pool.imap(tasks.square, items(), buffersize=10)
    assert [next(results) for _ in range(30)] == [x * x for x in range(30)]
    assert taken <= 40
    del results


def test_an_endless_iterable_without_a_buffersize(pool: DaskLockedPool) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken - 1

    results = pool.imap_unordered(tasks.square, items())
    for _ in range(3):
        next(results)
    assert taken <= 1003
    del results


def test_a_future_can_be_cancelled_until_its_call_begins(pool: DaskLockedPool, tmp_path: Path) -> None:
    stages = [Stage(tmp_path, name) for name in range(6)]
    futures = [pool.submit(tasks.stay, stage) for stage in stages]
    wait_until(lambda: sum(stage.begun.exists() for stage in stages) == 4)
    cancelled = [future.cancel() for future in futures]
    assert cancelled.count(True) == 2
    assert [future.running() for future in futures] == [not each for each in cancelled]
    for stage in stages:
        stage.let_go()
    for future, was in zip(futures, cancelled, strict=True):
        if was:
            with pytest.raises(CancelledError):
                future.result()
        else:
            future.result()
    assert sum(stage.begun.exists() for stage in stages) == 4


def test_close_and_join(client: Any) -> None:
    pool = dask_locked_pool(client)
    result = pool.map_async(tasks.square, range(10))
    pool.close()
    pool.join()
    assert result.get(0) == [x * x for x in range(10)]
    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.square, (1,))


def test_the_end_of_the_with_block(client: Any, tmp_path: Path) -> None:
    stages = [Stage(tmp_path, name) for name in range(10)]
    with dask_locked_pool(client) as pool:
        results = [pool.apply_async(tasks.stay, (stage,)) for stage in stages]
        wait_until(lambda: sum(stage.begun.exists() for stage in stages) == 4)
    for result in results:
        with pytest.raises(BrokenPoolError, match="terminated"):
            result.get()
    for stage in stages:
        stage.let_go()
    with dask_locked_pool(client) as pool:
        pool.map(tasks.square, range(20), chunksize=1)
    assert sum(stage.begun.exists() for stage in stages) == 4


def test_nothing_is_left_in_the_scheduler(client: Any) -> None:
    def left(dask_scheduler: Any) -> tuple[int, int, int]:
        plugin = dask_scheduler.plugins["poollock"]
        return len(plugin._locks.locks), len(plugin._tasks.jobs), len(dask_scheduler.tasks)

    with dask_locked_pool(client) as pool:
        pool.map(tasks.take_item, range(20), chunksize=1)
        assert list(pool.imap(tasks.square, range(20)))
    wait_until(lambda: client.run_on_scheduler(left) == (0, 0, 0))


def test_a_pool_by_an_address(client: Any) -> None:
    with dask_locked_pool(client.scheduler.address) as pool:
        assert pool.client is not client
        assert pool.apply(tasks.square, (3,)) == 9
        with pool.lock:
            pass


def test_the_current_client(client: Any) -> None:
    with client.as_current(), dask_locked_pool() as pool:
        assert pool.client is client


def test_no_client_at_all() -> None:
    with pytest.raises(ValueError, match="client"):
        dask_locked_pool()


def test_wrong_arguments(client: Any) -> None:
    with pytest.raises(TypeError, match="locks must be names"):
        dask_locked_pool(client, locks="lock")


def test_threads_in_one_process() -> None:
    with (
        Client(processes=False, n_workers=1, threads_per_worker=3, dashboard_address=":0") as client,
        dask_locked_pool(client) as pool,
    ):
        assert pool.map(tasks.take_item, range(10), chunksize=1) == list(range(10))
        with pytest.raises(DeadlockError):
            pool.apply(tasks.take_twice)


def test_a_forked_process_cannot_use_the_connection_of_its_parent(pool: DaskLockedPool) -> None:
    pool.lock.acquire()
    pool.lock.release()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            pool.lock.acquire()
        except PoolLockError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert b"was forked from" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    with pool.lock:  # the child has closed its own copy only
        pass


def test_it_is_not_imported_before_it_is_asked_for(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, poollock\nassert not {'dask', 'distributed', 'poollock.dask'} & set(sys.modules)\n"
    )
    with start_program(program) as process:
        assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_names_of_the_package() -> None:
    assert DaskLockedPool.__module__ == "poollock.dask"
    assert locked_pool.__module__ == "poollock"


def test_the_client_is_closed(client: Any, tmp_path: Path) -> None:
    """What has not begun raises; what has begun ends, and its result may still come."""
    stages = [Stage(tmp_path, name) for name in range(6)]
    with Client(client.scheduler.address, set_as_default=False) as other:
        pool = dask_locked_pool(other)
        results = [pool.apply_async(tasks.stay, (stage,)) for stage in stages]
        wait_until(lambda: sum(stage.begun.exists() for stage in stages) == 4)
    failed = 0
    for stage, result in zip(stages, results, strict=True):
        stage.let_go()
        try:
            result.get()
        except BrokenPoolError:
            failed += 1
    assert 2 <= failed <= 6
    assert sum(stage.begun.exists() for stage in stages) == 4
    with pytest.raises(BrokenPoolError):
        pool.apply(tasks.square, (1,))
    pool.terminate()
    pool.join()


def test_a_pool_that_nobody_ends(client: Any, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom poollock.dask import dask_locked_pool\n"
        "pool = dask_locked_pool(sys.argv[1])\nprint(pool.map(abs, [-1, 2]))\npool.lock.acquire()\n"
    )
    with start_program(program, client.scheduler.address) as process:
        output, errors = process.communicate()
    assert (output, errors, process.returncode) == ("[1, 2]\n", "", 0)


def test_a_scheduler_with_another_version(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from poollock.dask import _session  # noqa: PLC0415 - its own name of the version

    with dask_locked_pool(client):
        pass
    monkeypatch.setattr(_session, "PROTOCOL", 99)
    member = Member("session", os.getpid(), "host", "", "")
    arguments = client.security.get_connection_args("client")
    with pytest.raises(PoolLockError, match=r"version 1 of poollock's messages, and .* version 99"):
        _session.Session(client, client.scheduler.address, arguments, member)


def test_a_scheduler_without_the_plugin() -> None:
    with local_cluster(1) as client:
        member = Member("session", os.getpid(), "host", "", "")
        arguments = client.security.get_connection_args("client")
        with pytest.raises(PoolLockError, match="no plugin of poollock"):
            Session(client, client.scheduler.address, arguments, member)


def test_a_signal_handler_that_raises(pool: DaskLockedPool) -> None:
    """Wherever it does so, the lock can be taken again, once it is released if it is held."""

    def use() -> None:
        with pool.lock:
            pass

    def use_with_limit() -> None:
        with pool.lock.hold(5):
            pass

    for function in (use, use_with_limit):
        count = 0
        for count in range(1, 1000):
            if not handled_at(count, function):
                break
            if pool.lock._is_held_here():
                pool.lock.release()
            assert pool.lock.acquire(timeout=5), count
            pool.lock.release()
        assert count > 10


def test_errors_survive_pickling() -> None:
    holder = Holder(5, "host", "tcp://1")
    error = DaskWorkerDiedError(holder, -9, "f, item 3", ("log",), "", range(3, 4))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.pid, copy.host, copy.worker, copy.items, copy.result_lost) == (
        5,
        "host",
        "tcp://1",
        range(3, 4),
        False,
    )
    lost = pickle.loads(pickle.dumps(DaskWorkerDiedError(holder, None, "f", result_lost=True)))
    assert "the result of f was lost" in str(lost)


def test_one_log_of_the_whole_cluster(client: Any, pool: DaskLockedPool, tmp_path: Path) -> None:
    path = tmp_path / "cluster.log"
    logger = logging.getLogger("cluster_tasks")
    logger.addHandler(handler := LockedLogHandler(path))
    client.run(tasks.log_information)
    client.forward_logging("cluster_tasks")
    try:
        pool.map(tasks.log, range(300))
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) == 300)
        assert sorted(path.read_text().splitlines()) == sorted(f"item {x}" for x in range(300))
    finally:
        client.unforward_logging("cluster_tasks")
        logger.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("name", dask.__all__)
def test_the_reference_has_every_name(name: str) -> None:
    reference = TESTS.parent / "docs" / "reference.md"
    assert re.search(rf"^\.\. auto\w+:: poollock\.dask\.{name}\b", reference.read_text(), re.MULTILINE)
