"""A worker dies, busy or idle, sending or receiving: its task alone fails, and says so."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import Factory, are_replaced, wait_for_pid, wait_until, workers
from poollock import (
    LockedPool,
    WorkerDiedError,
    locked_pool,
)
from poollock._supervisor import worker_handle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def outcome(result: Any) -> Any:
    """The result, or the pid of the worker that died."""
    try:
        return result.get()
    except WorkerDiedError as error:
        return error.pid


@pytest.mark.parametrize(
    ("fault", "exitcode", "text"),
    [
        ("SIGKILL", -signal.SIGKILL, "was killed by SIGKILL"),
        ("SIGSEGV", -signal.SIGSEGV, "was killed by SIGSEGV"),
        ("C exit", 0, "ended with exit code 0"),
    ],
)
def test_busy_worker_dies(pool: LockedPool, fault: str, exitcode: int, text: str) -> None:
    before = [pool.apply_async(tasks.square, (x,)) for x in range(20)]
    victim = pool.apply_async(tasks.run, (fault,))
    after = [pool.apply_async(tasks.square, (x,)) for x in range(20)]
    with pytest.raises(WorkerDiedError, match=f"{text} while it ran run") as caught:
        victim.get()
    assert caught.value.exitcode == exitcode
    assert caught.value.locks_held == ()
    assert caught.value.task == "run"
    assert f"process {caught.value.pid}" in str(caught.value)
    assert [result.get() for result in before + after] == [x * x for x in range(20)] * 2
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.pid, again.task) == (str(caught.value), caught.value.pid, caught.value.task)
    wait_until(lambda: len(workers(pool)) == 2)
    assert len(set(pool.map(tasks.own_pid, range(8), chunksize=1))) in (1, 2)


def test_map_names_the_worker_and_ends(pool: LockedPool) -> None:
    with pytest.raises(WorkerDiedError, match="while it ran run, item 2"):
        pool.map(tasks.run, ["none", "none", "SIGKILL", "none"], chunksize=1)
    with pytest.raises(WorkerDiedError, match="while it ran run, items 2 to 3"):
        pool.map(tasks.run, ["none", "none", "none", "SIGKILL"], chunksize=2)
    with pytest.raises(WorkerDiedError, match="while it ran run, items 0 to 1"):
        list(pool.imap(tasks.run, ["none", "SIGKILL"], chunksize=2))
    results = pool.imap(tasks.run, ["C exit"])
    with pytest.raises(WorkerDiedError, match="while it ran run, item 0"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_two_workers_die_in_one_map(pool: LockedPool) -> None:
    with pytest.raises((WorkerDiedError, ValueError)):
        pool.map(tasks.run, ["SIGKILL", "exception", "none", "C exit", "SIGKILL"], chunksize=1)
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


IGNORES = """
import signal, sys
import fault_tasks as tasks
import poollock

if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with getattr(poollock, sys.argv[1])(2, context=sys.argv[2]) as pool:
        try:
            pool.apply(tasks.kill)
        except poollock.WorkerDiedError:
            print(pool.apply(tasks.square, (3,)))
"""


def test_program_that_ignores_the_deaths_of_its_children(
    factory: Factory, method: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(IGNORES)
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, str(program), factory.__name__, method],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)])},
    )
    assert (done.stdout, done.stderr) == ("9\n", "")


def test_idle_workers_are_killed(pool: LockedPool) -> None:
    for _ in range(3):
        pool.map(tasks.square, range(10))
        wait_until(lambda: len(workers(pool)) == 2)
        killed = workers(pool)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert pool.map(tasks.square, range(100), chunksize=1) == [x * x for x in range(100)]
        wait_until(partial(are_replaced, pool, killed))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signal_to_a_busy_worker(pool: LockedPool, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "stays"
    result = pool.apply_async(tasks.stay_while, (str(path),))
    pid = wait_for_pid(path)
    os.kill(pid, number)
    with pytest.raises(WorkerDiedError, match=number.name) as caught:
        result.get()
    assert caught.value.pid == pid


def test_worker_dies_while_it_sends(pool: LockedPool) -> None:
    """Killed when the first bytes of its result have arrived, and many are still to come."""
    others = pool.map_async(tasks.square, range(50), chunksize=1)
    result = pool.apply_async(tasks.large_result, (0,))
    dispatcher = pool._supervisor._event_loop._dispatcher

    def receiving() -> list[int]:
        return [w.process.pid for w in dispatcher.workers if w.reader.begun or w.reader._length > 1 << 20]

    while not (found := receiving()):
        assert not result.ready()
    os.kill(found[0], signal.SIGKILL)
    assert outcome(result) in (found[0], bytes(tasks.HUNDRED_MB))  # it may have been just too late
    assert others.get() == [x * x for x in range(50)]
    assert pool.apply(tasks.square, (3,)) == 9


def test_worker_dies_while_it_receives(pool: LockedPool) -> None:
    """Stopped, so that it cannot take all of its argument, then killed."""
    wait_until(lambda: len(workers(pool)) == 2)
    first, second = workers(pool)
    for pid in (first, second):
        os.kill(pid, signal.SIGSTOP)
    results = [pool.apply_async(tasks.size, (bytes(tasks.HUNDRED_MB),)) for _ in range(2)]
    others = pool.map_async(tasks.square, range(20), chunksize=1)
    os.kill(first, signal.SIGKILL)
    os.kill(second, signal.SIGCONT)
    assert [outcome(result) for result in results].count(tasks.HUNDRED_MB) >= 1
    assert {outcome(result) for result in results} <= {tasks.HUNDRED_MB, first}
    assert others.get() == [x * x for x in range(20)]


def test_workers_that_leave_on_time(factory: Factory, method: str) -> None:
    with factory(2, maxtasksperchild=3, context=method) as pool:
        assert pool.map(tasks.square, range(40), chunksize=1) == [x * x for x in range(40)]
        assert len(set(pool.map(tasks.own_pid, range(12), chunksize=1))) >= 4


def test_task_that_forks_and_returns_twice(pool: LockedPool) -> None:
    assert [pool.apply(tasks.fork_and_return, (x,)) for x in range(5)] == [1] * 5


def test_death_is_seen_though_a_child_has_all_files_open(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "lives"
    path.touch()
    with pytest.raises(WorkerDiedError):
        pool.apply(tasks.leave_a_child, (str(path),))
    path.unlink()


def test_death_is_seen_though_no_descriptor_tells_of_it(
    factory: Factory, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise PermissionError(1, "as in a sandbox")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    path = tmp_path / "lives"
    path.touch()
    with factory(2, context=method) as pool:
        for kill in (partial(pool.apply, tasks.kill), partial(pool.apply, tasks.leave_a_child, (str(path),))):
            with pytest.raises(WorkerDiedError, match="SIGKILL"):
                kill()
            assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        path.unlink()
    with factory(1, maxtasksperchild=1, context=method) as pool:
        assert pool.map(tasks.square, range(4), chunksize=1) == [0, 1, 4, 9]


def test_death_is_seen_though_a_stranger_keeps_the_pipe_open(
    factory: Factory, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that another thread forked in the very moment; and nothing else tells."""
    kept: list[int] = []
    standard = worker_handle.WorkerHandle.start

    def refuse(*_: int) -> int:
        raise PermissionError(1, "as in a sandbox")

    def start(worker: worker_handle.WorkerHandle) -> None:
        kept.append(os.dup(worker.worker_socket.sock.fileno()))
        standard(worker)

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    monkeypatch.setattr(worker_handle.WorkerHandle, "start", start)
    with factory(2, context=method) as pool:
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            pool.apply(tasks.kill)
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    for fd in kept:
        os.close(fd)


class Shy:
    """Dies when it is called, and does not say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no")

    def __call__(self) -> None:
        os._exit(3)


def test_function_that_does_not_show_itself() -> None:
    with locked_pool(1, context="fork") as pool:
        with pytest.raises(WorkerDiedError, match="while it ran a Shy"):
            pool.apply(Shy())
        assert pool.apply(tasks.square, (3,)) == 9


def test_what_has_no_room_in_memory_costs_one_worker(pool: LockedPool) -> None:
    others = pool.map_async(tasks.square, range(100), chunksize=1)
    with pytest.raises(WorkerDiedError, match=r"what it sent cannot be read in .*OverflowError"):
        pool.apply(tasks.write_to_own_pipe, (0,))
    assert others.get() == [x * x for x in range(100)]
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]


def test_what_a_worker_sent_before_it_ended(factory: Factory, method: str) -> None:
    """All of it counts, though the pool sees its end and only the beginning of its result at once."""
    with factory(1, maxtasksperchild=1, context=method) as pool:
        event_loop = pool._supervisor._event_loop
        dispatcher = event_loop._dispatcher
        wait_until(lambda: bool(dispatcher._idle))
        (worker,) = dispatcher.workers
        go_on = threading.Event()
        event_loop._wakeup.call_soon_threadsafe(go_on.wait)  # it does nothing else meanwhile
        result = pool.apply_async(bytes, (100_000,))
        multiprocessing.connection.wait([worker.sentinel])
        go_on.set()
        assert result.get() == bytes(100_000)


def test_worker_dies_while_it_signs_for_a_task(factory: Factory, method: str) -> None:
    with factory(1, context=method) as pool:
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.die_signing, (0,))
        assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
