"""A worker dies, busy or idle, sending or receiving: its task alone fails, and says so."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import (
    ONE_METHOD,
    Factory,
    are_replaced,
    kill,
    needs_fork,
    open_sockets,
    running,
    start_program,
    stop,
    wait_for_pid,
    wait_until,
    workers,
)
from poollock import (
    LockedPool,
    WorkerDiedError,
    locked_pool,
)
from poollock._backend import fork

if sys.platform == "win32":
    pytest.skip("signals are POSIX", allow_module_level=True)


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
    with start_program(program, factory.__name__, method) as process:
        assert process.communicate() == ("9\n", "")


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


def test_worker_dies_while_it_sends(pool: LockedPool, tmp_path: Path) -> None:
    """Killed at several points of the way that a result of 100 MB has to go."""
    path = tmp_path / "pid"
    whole = 0.0
    for part in (1.0, 0.2, 0.4, 0.6, 0.8):
        others = pool.map_async(tasks.square, range(50), chunksize=1)
        result = pool.apply_async(tasks.large_result, (str(path),))
        pid, begun = wait_for_pid(path), time.monotonic()
        path.unlink()
        if whole:
            result.wait(part * whole)
            os.kill(pid, signal.SIGKILL)
            assert outcome(result) in (pid, bytes(tasks.HUNDRED_MB))  # it may have been just too late
        else:
            assert result.get() == bytes(tasks.HUNDRED_MB)
            whole = time.monotonic() - begun
        assert others.get() == [x * x for x in range(50)]
        assert pool.apply(tasks.square, (3,)) == 9


def test_worker_dies_while_it_receives(pool: LockedPool) -> None:
    """Stopped, so that it cannot take all of its argument, then killed."""
    wait_until(lambda: len(workers(pool)) == 2)
    first, second = workers(pool)
    for pid in (first, second):
        stop(pid)
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
    standard = BaseProcess.start

    def refuse(*_: int) -> int:
        raise PermissionError(1, "as in a sandbox")

    def start(process: BaseProcess) -> None:
        kept.extend(map(os.dup, open_sockets()))
        standard(process)

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    monkeypatch.setattr(BaseProcess, "start", start)
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


SLOW = """
import sys
import fault_tasks as tasks
import poollock

if __name__ == "__main__":
    with getattr(poollock, sys.argv[1])(1, maxtasksperchild=1, context=sys.argv[2]) as pool:
        print(len(pool.apply(tasks.stay_and_return, (sys.argv[3], 100_000))))
"""


def test_what_a_worker_sent_before_it_ended(factory: Factory, method: str, tmp_path: Path) -> None:
    """All of it counts, though the pool sees its end and only the beginning of its result at once."""
    program, path = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(SLOW)
    with start_program(program, factory.__name__, method, path) as process:
        pid = wait_for_pid(path)
        stop(process.pid)
        path.unlink()
        wait_until(lambda: not running(pid))
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate()[0] == "100000\n"


@needs_fork
def test_worker_that_is_replaced_while_a_program_starts(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not keep open what the program's end, or an error of its start, is to close."""
    waits = Event()
    execute: Any = vars(subprocess.Popen)["_execute_child"]  # the pipes have been made before

    def pause(seconds: float) -> None:
        waits.set()
        time.sleep(seconds)

    with factory(1, context="fork") as pool:
        before = workers(pool)

        def start_slowly(*args: Any) -> None:
            kill(before[0])
            wait_until(lambda: waits.is_set() or are_replaced(pool, before))
            execute(*args)

        monkeypatch.setattr(fork, "sleep", pause)
        monkeypatch.setattr(fork, "_MANY", 100_000)
        monkeypatch.setattr(subprocess.Popen, "_execute_child", start_slowly)
        with subprocess.Popen([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE) as process:
            assert process.communicate()[0] == b"1\n"
        assert pool.apply(tasks.square, (3,)) == 9
        assert are_replaced(pool, before)


@pytest.mark.timeout(240)  # some ninety workers, one after the other
@pytest.mark.parametrize("method", ONE_METHOD)
def test_worker_dies_at_each_step(method: str) -> None:
    """Wherever it is in the library, its death costs at most the one task that it had begun."""
    with locked_pool(1, context=method) as pool:
        step, survived = 0, False
        while not survived:
            step += 1
            results = [pool.apply_async(tasks.die_soon, (step,))]
            results += [pool.apply_async(tasks.own_pid) for _ in range(4)]
            pids = {outcome(result) for result in results}
            failed = [result for result in results if not result.successful()]
            assert len(failed) <= 1, f"at step {step}"
            survived = not failed and len(pids) == 1
    assert step > 30
