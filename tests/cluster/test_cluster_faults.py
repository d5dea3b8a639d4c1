"""What a user sees when something of a cluster dies or is cut off: each row of the documentation's table."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra poollock[dask] is not installed")


import cluster_tasks as tasks
from cluster_tasks import Stage
from clusters import Client, Commands, cut_connection, cut_stream, local_cluster, wait_for_workers
from helpers import running, start_program, stop, wait_for_pid, wait_until
from poollock import BrokenPoolError, LockTimeoutError, PoolLockError, WorkerDiedError
from poollock.dask import DaskLockedPool, DaskWorkerDiedError, dask_locked_pool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def address_of(client: Any, pid: int) -> str:
    """The address of the worker with that pid."""
    found: dict[str, int] = client.run(os.getpid)
    return next(address for address, each in found.items() if each == pid)


def take_when_free(lock: Any) -> tuple[threading.Thread, list[bool]]:
    """Wait for a lock in a thread; note whether it was abandoned."""
    got: list[bool] = []

    def run() -> None:
        with lock:
            got.append(lock.abandoned)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got


def test_a_busy_worker_is_killed(client: Any, pool: DaskLockedPool, tmp_path: Path) -> None:
    stage, others = Stage(tmp_path), [Stage(tmp_path, name) for name in range(20)]
    result = pool.apply_async(tasks.stay, (stage,))
    (pid,) = stage.pids()
    address = address_of(client, pid)
    rest = [pool.apply_async(tasks.stay, (other,)) for other in others]
    # Those that have begun in the worker die with it; let them end first.
    for other in others:
        other.let_go()
    for each in rest:
        each.get()
    kill(pid)
    with pytest.raises(
        WorkerDiedError, match=f"worker process {pid} on .* was killed by SIGKILL while it ran stay"
    ) as e:
        result.get()
    assert isinstance(e.value, DaskWorkerDiedError)
    assert (e.value.pid, e.value.worker, e.value.locks_held, e.value.exitcode) == (
        pid,
        address,
        (),
        -signal.SIGKILL,
    )
    assert e.value.host == os.uname().nodename
    assert [len(other.pids()) for other in [stage, *others]] == [1] * 21
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


def test_items_that_have_no_result(pool: DaskLockedPool, tmp_path: Path) -> None:
    stages = [Stage(tmp_path, name) for name in range(6)]
    result = pool.map_async(tasks.stay, stages, chunksize=3)
    (pid,) = stages[3].pids()
    for stage in stages[:3]:
        stage.let_go()
    wait_until(lambda: stages[2].begun.exists())
    kill(pid)
    with pytest.raises(DaskWorkerDiedError) as caught:
        result.get()
    assert caught.value.items in {range(3, 6), range(3)}  # both, if one process had both


def test_a_worker_is_killed_that_runs_several_tasks(
    client: Any, pool: DaskLockedPool, tmp_path: Path
) -> None:
    stages = [Stage(tmp_path, name) for name in range(8)]
    results = [pool.apply_async(tasks.stay, (stage,)) for stage in stages]
    wait_until(lambda: sum(stage.begun.exists() for stage in stages) == 4)
    (pid,) = stages[0].pids()
    both = {name for name, stage in enumerate(stages) if stage.begun.exists() and stage.pids() == [pid]}
    assert len(both) == 2
    kill(pid)
    for stage in stages:
        stage.let_go()
    for name, result in enumerate(results):
        if name in both:
            with pytest.raises(DaskWorkerDiedError):
                result.get()
        else:
            result.get()
    assert [len(stage.pids()) for stage in stages] == [1] * 8


def test_a_worker_is_killed_while_it_holds_the_lock(pool: DaskLockedPool, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    result = pool.apply_async(tasks.hold, (stage,))
    (pid,) = stage.pids()
    thread, got = take_when_free(pool.lock)
    kill(pid)
    thread.join()
    assert got == [True]
    with pytest.raises(DaskWorkerDiedError, match="it held 'lock', now free again") as caught:
        result.get()
    assert caught.value.locks_held == ("lock",)
    assert pool.apply(tasks.take)[1] is True
    pool.lock.mark_consistent()
    assert pool.apply(tasks.take)[1] is False


def test_a_worker_is_killed_while_it_waits(pool: DaskLockedPool, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pool.lock:
        result = pool.apply_async(tasks.begin_and_take, (stage,))
        (pid,) = stage.pids()
        wait_until(lambda: bool(pool.lock_waits()))
        kill(pid)
        with pytest.raises(DaskWorkerDiedError) as caught:
            result.get()
        assert caught.value.locks_held == ()
        assert pool.lock.holder == os.getpid()
    assert pool.apply(tasks.take)[1] is False


def test_a_worker_is_killed_right_after_the_grant(pool: DaskLockedPool, tmp_path: Path) -> None:
    """The scheduler has given it the lock, and it does not know that yet."""
    stage = Stage(tmp_path)
    with pool.lock:
        result = pool.apply_async(tasks.begin_and_take, (stage,))
        (pid,) = stage.pids()
        wait_until(lambda: bool(pool.lock_waits()))
        stop(pid)
    assert pool.lock.holder == pid
    kill(pid)
    with pool.lock:
        assert pool.lock.abandoned
    with pytest.raises(DaskWorkerDiedError) as caught:
        result.get()
    assert caught.value.locks_held == ("lock",)


def test_a_worker_is_killed_before_its_large_result_is_fetched(client: Any, pool: DaskLockedPool) -> None:
    """The task has run, and is not run again."""

    def large_and_die() -> bytes:
        threading.Timer(0, kill, [os.getpid()]).start()
        return bytes(1 << 26)

    with pytest.raises(DaskWorkerDiedError):
        pool.apply(large_and_die)


def test_a_task_that_kills_its_worker_while_it_is_unpickled(pool: DaskLockedPool, tmp_path: Path) -> None:
    with pytest.raises(DaskWorkerDiedError, match="exit code 7"):
        pool.apply(tasks.square, (tasks.Fatal(),))
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


def test_a_worker_is_retired(tmp_path: Path) -> None:
    """Its task ends, its result counts, and nobody else gets its lock before."""
    with local_cluster(2) as client, dask_locked_pool(client) as pool:
        pool.map(tasks.square, range(20))
        stage = Stage(tmp_path)
        result = pool.apply_async(tasks.hold, (stage,))
        (pid,) = stage.pids()
        thread, got = take_when_free(pool.lock)
        client.retire_workers([address_of(client, pid)])
        assert pool.lock.holder == pid
        assert got == []
        stage.let_go()
        assert result.get() == pid
        thread.join()
        assert pool.apply(tasks.square, (3,)) == 9  # after whatever else the other worker was given
        assert stage.attempts.read_text() == f"{pid}\n"


def test_the_stream_of_a_worker_is_cut(tmp_path: Path) -> None:
    """The scheduler takes the worker for lost, and Dask would run its task again elsewhere."""
    with local_cluster(2) as client, dask_locked_pool(client) as pool:
        pool.map(tasks.square, range(20))
        stage = Stage(tmp_path)
        result = pool.apply_async(tasks.hold, (stage,))
        (pid,) = stage.pids()
        thread, got = take_when_free(pool.lock)
        client.run_on_scheduler(cut_stream, address=address_of(client, pid))
        wait_until(lambda: pid not in client.run(os.getpid).values())
        assert pool.lock.holder == pid
        assert got == []
        stage.let_go()
        assert result.get() == pid
        thread.join()
        assert pool.apply(tasks.square, (3,)) == 9  # after whatever else the other worker was given
        assert stage.attempts.read_text() == f"{pid}\n"


def test_the_connection_of_a_worker_is_cut(client: Any, pool: DaskLockedPool, tmp_path: Path) -> None:
    """Nobody knows what it does, so its nanny ends it."""
    stage = Stage(tmp_path)
    result = pool.apply_async(tasks.hold, (stage,))
    (pid,) = stage.pids()
    client.run_on_scheduler(cut_connection, pid=pid)
    with pytest.raises(DaskWorkerDiedError):
        result.get()
    assert not running(pid)
    with pool.lock:
        assert pool.lock.abandoned
    assert stage.pids() == [pid]


def test_workers_are_restarted(client: Any, pool: DaskLockedPool, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    result = pool.apply_async(tasks.hold, (stage,))
    (pid,) = stage.pids()
    thread, got = take_when_free(pool.lock)
    restart = threading.Thread(target=client.restart_workers, args=([address_of(client, pid)],))
    restart.start()
    thread.join()
    assert not running(pid)
    assert got == [True]
    with pytest.raises(DaskWorkerDiedError):
        result.get()
    restart.join()
    assert stage.pids() == [pid]


def test_the_cluster_is_restarted(client: Any, pool: DaskLockedPool, tmp_path: Path) -> None:
    """Whoever waits gets an error, and the pool can be used again."""
    stages = [Stage(tmp_path, name) for name in range(6)]
    results = [pool.apply_async(tasks.stay, (stage,)) for stage in stages]
    wait_until(lambda: sum(stage.begun.exists() for stage in stages) == 4)
    client.restart()
    for result in results:
        with pytest.raises((DaskWorkerDiedError, BrokenPoolError)):
            result.get()
    assert pool.map(tasks.take_item, range(5)) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_worker_is_stopped(tmp_path: Path) -> None:
    """Its lock stays taken; when Dask gives the worker up and its nanny kills it, the lock is free."""
    with local_cluster(2, scheduler_kwargs={"worker_ttl": "3s"}) as client, dask_locked_pool(client) as pool:
        stage = Stage(tmp_path)
        result = pool.apply_async(tasks.hold, (stage,))
        (pid,) = stage.pids()
        stop(pid)
        with pytest.raises(LockTimeoutError, match=f"held by process {pid} on"), pool.lock.hold(0.5):
            pass
        with pool.lock:
            assert pool.lock.abandoned
        assert not running(pid)
        with pytest.raises(DaskWorkerDiedError):
            result.get()


def test_a_nanny_is_killed(commands: Callable[..., Commands], tmp_path: Path) -> None:
    cluster = commands()
    nanny = cluster.worker()
    with Client(scheduler_file=str(cluster.file)) as client:
        wait_for_workers(client, 1)
        with dask_locked_pool(client) as pool:
            stage = Stage(tmp_path)
            result = pool.apply_async(tasks.hold, (stage,))
            (pid,) = stage.pids()
            kill(nanny.pid)
            with pool.lock:
                assert pool.lock.abandoned  # the worker itself sees that its nanny has ended
            with pytest.raises(DaskWorkerDiedError):
                result.get()
            wait_until(lambda: not running(pid))


@pytest.mark.slow
def test_a_nanny_that_does_not_answer(commands: Callable[..., Commands], tmp_path: Path) -> None:
    """Nobody knows whether the worker lives: its lock is not freed, and whoever waits for it is told."""
    cluster = commands()
    nanny = cluster.worker()
    with Client(scheduler_file=str(cluster.file)) as client:
        wait_for_workers(client, 1)
        with dask_locked_pool(client) as pool:
            stage = Stage(tmp_path)
            result = pool.apply_async(tasks.hold, (stage,))
            (pid,) = stage.pids()
            stop(nanny.pid)
            stop(pid)
            client.run_on_scheduler(cut_connection, pid=pid)
            with pytest.raises(PoolLockError, match=r"out of reach.*pool\.free\('lock'\)"):
                pool.lock.acquire()
            with pytest.raises(PoolLockError, match="out of reach"):  # at once now
                pool.lock.acquire()
            assert pool.lock.holder == pid
            kill(pid)
            assert pool.free("lock")
            with pool.lock:
                assert pool.lock.abandoned
            with pytest.raises(DaskWorkerDiedError):
                result.get()
            assert not pool.free()


@pytest.mark.slow
def test_a_nanny_that_answers_later(commands: Callable[..., Commands], tmp_path: Path) -> None:
    cluster = commands()
    nanny = cluster.worker()
    with Client(scheduler_file=str(cluster.file)) as client:
        wait_for_workers(client, 1)
        with dask_locked_pool(client) as pool:
            stage = Stage(tmp_path)
            pool.apply_async(tasks.hold, (stage,))
            (pid,) = stage.pids()
            stop(nanny.pid)
            client.run_on_scheduler(cut_connection, pid=pid)
            with pytest.raises(PoolLockError, match="out of reach"):
                pool.lock.acquire()
            os.kill(nanny.pid, signal.SIGCONT)
            wait_until(lambda: not pool.lock.locked())
            assert not running(pid)


def test_a_worker_without_a_nanny(commands: Callable[..., Commands], tmp_path: Path) -> None:
    """That it has closed its connection is believed; if only the connection was cut, it ends itself."""
    cluster = commands()
    one, two = cluster.worker("--no-nanny"), cluster.worker("--no-nanny")
    with Client(scheduler_file=str(cluster.file)) as client:
        wait_for_workers(client, 2)
        with dask_locked_pool(client) as pool:

            def cut(pid: int) -> None:
                client.run_on_scheduler(cut_connection, pid=pid)

            for name, end in enumerate([kill, cut]):
                stage = Stage(tmp_path, name)
                result = pool.apply_async(tasks.hold, (stage,))
                (pid,) = stage.pids()
                end(pid)
                with pool.lock:
                    assert pool.lock.abandoned
                with pytest.raises(DaskWorkerDiedError):
                    result.get()
                next(each for each in (one, two) if each.pid == pid).wait()


def test_the_scheduler_is_killed(commands: Callable[..., Commands], tmp_path: Path) -> None:
    cluster = commands()
    cluster.worker()
    client = Client(scheduler_file=str(cluster.file), set_as_default=False)
    try:
        wait_for_workers(client, 1)
        pool = dask_locked_pool(client)
        stage = Stage(tmp_path)
        results: list[Any] = [pool.apply_async(tasks.hold, (stage,)), pool.map_async(tasks.square, range(5))]
        stage.pids()
        refused: list[PoolLockError] = []

        def wait_for_lock() -> None:
            try:
                pool.lock.acquire()
            except PoolLockError as error:
                refused.append(error)

        waiter = threading.Thread(target=wait_for_lock)
        waiter.start()
        kill(cluster.scheduler.pid)
        for result in results:
            with pytest.raises(BrokenPoolError, match="connection to the scheduler"):
                result.get()
        waiter.join()
        assert len(refused) == 1
        with pytest.raises(PoolLockError):
            pool.lock.acquire()
        with pytest.raises(BrokenPoolError):
            pool.apply(tasks.square, (2,))
        stage.let_go()
        pool.terminate()
        pool.join()
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=1)


PROGRAM = """
import os, sys, time
from pathlib import Path
import cluster_tasks as tasks
from cluster_tasks import Stage
from clusters import Client, Commands, cut_connection, cut_stream, local_cluster, wait_for_workers
from poollock.dask import dask_locked_pool

if __name__ == "__main__":
    directory = Path(sys.argv[2])
    pool = dask_locked_pool(Client(sys.argv[1]), locks=("lock", "other"))
    pool.locks["other"].acquire()
    results = [pool.apply_async(tasks.stay, (Stage(directory, name),)) for name in range(10)]
    import pickle
    (directory / "other.part").write_bytes(pickle.dumps(pool.locks["other"]))
    (directory / "other.part").rename(directory / "other")
    while True:
        time.sleep(1)
"""


def test_the_client_is_killed(client: Any, pool: DaskLockedPool, tmp_path: Path) -> None:
    """Tasks that have not begun are dropped, the others end; a lock that it had is free, and marked."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    stages = [Stage(tmp_path, name) for name in range(10)]
    with start_program(program, client.scheduler.address, tmp_path) as process:
        wait_until((tmp_path / "other").exists)
        wait_until(lambda: sum(stage.begun.exists() for stage in stages) == 4)
        import pickle  # noqa: PLC0415 - the lock of another program

        with client.as_current():
            lock = pickle.loads((tmp_path / "other").read_bytes())
            assert lock.holder == process.pid
            thread, got = take_when_free(lock)
            process.kill()
            thread.join()
        assert got == [True]
    for stage in stages:
        stage.let_go()
    assert pool.map(tasks.square, range(20), chunksize=1) == [x * x for x in range(20)]
    assert sum(stage.begun.exists() for stage in stages) == 4


def test_a_process_that_a_task_forks_does_not_keep_its_lock(pool: DaskLockedPool, tmp_path: Path) -> None:
    """It has a copy of the worker's connection, which it closes: the end of the worker is seen."""
    path = tmp_path / "pid"
    result = pool.apply_async(tasks.hold_and_fork, (path,))
    child = wait_for_pid(path)
    parent = pool.lock.holder
    kill(parent)
    with pool.lock:
        pass
    assert running(child)
    kill(child)
    with pytest.raises(DaskWorkerDiedError):
        result.get()
