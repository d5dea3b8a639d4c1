"""What each event does to a pool, and what it does not."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.pool import IMapIterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import fault_tasks as tasks
import pytest

from helpers import METHODS, open_files, running, wait_until
from poollock import (
    BrokenPoolError,
    InitializerError,
    Lock,
    LockedPool,
    PoolLockError,
    RLock,
    Semaphore,
    WorkerDiedError,
    locked_pool,
    manager_locked_pool,
)
from poollock._backend import mp_pool
from poollock._supervisor import lock_recovery, worker_handle
from poollock._supervisor.results import PendingResults

MaybeEncodingError: type[Exception] = mp_pool.MaybeEncodingError
Factory = Callable[..., LockedPool]

MADE: dict[str, Callable[..., Any]] = {"RLock": RLock, "Semaphore": partial(Semaphore, 2)}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def workers(pool: LockedPool) -> list[int]:
    return [process.pid for process in pool._pool]


def are_replaced(pool: LockedPool, killed: list[int]) -> bool:
    return len(workers(pool)) == len(killed) and not set(workers(pool)) & set(killed)


def outcome(result: Any) -> Any:
    """The result, or the pid of the worker that died."""
    try:
        return result.get()
    except WorkerDiedError as error:
        return error.pid


def wait_for_pid(path: Path) -> int:
    wait_until(path.exists)
    return int(path.read_text())


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
    with pytest.raises(WorkerDiedError, match="while it ran run, chunk 0"):
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
    channel = pool._channel

    def receiving() -> list[int]:
        return [
            w.process.pid for w in channel._dispatcher.workers if w.reader.begun or w.reader._length > 1 << 20
        ]

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


def test_base_exceptions_fail_the_task_only(pool: LockedPool) -> None:
    wait_until(lambda: len(workers(pool)) == 2)
    before = sorted(workers(pool))
    for error in (SystemExit, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error):
            pool.apply(_raise, (error,))
    assert sorted(workers(pool)) == before


def _raise(error: type[BaseException]) -> NoReturn:
    raise error


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


@pytest.mark.parametrize("fault", ["exception", "exit"])
def test_initializer_raises(factory: Factory, method: str, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "calls"
    with factory(2, tasks.count_and_fail, (str(path), fault), context=method) as pool:
        results = [pool.apply_async(tasks.square, (x,)) for x in range(5)]
        for result in results:
            with pytest.raises(InitializerError, match=r"raised (ValueError|SystemExit)") as caught:
                result.get()
            assert "in count_and_fail" in str(caught.value.__cause__)
        with pytest.raises(InitializerError):
            pool.map(tasks.square, range(5))
        with pytest.raises(InitializerError):
            list(pool.imap(tasks.square, itertools.count()))
        assert len(path.read_text().split()) <= 6


def test_initializer_that_fails_once_each_time(factory: Factory, method: str, tmp_path: Path) -> None:
    path = tmp_path / "fails"
    path.touch()
    with factory(1, tasks.fail_once, (str(path),), context=method) as pool:
        for _ in range(4):  # in a row, three would be too many
            assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
            path.touch()
            with pytest.raises(WorkerDiedError):
                pool.apply(tasks.kill)


# What was killed may have been well: more of those have to die.
@pytest.mark.parametrize(("fault", "starts"), [("SIGKILL", range(12, 15)), ("C exit", range(3, 7))])
def test_workers_die_before_they_are_ready(
    factory: Factory, method: str, tmp_path: Path, fault: str, starts: range
) -> None:
    path = tmp_path / "calls"
    how = "was killed by SIGKILL" if fault == "SIGKILL" else "ended with exit code 0"
    with factory(2, tasks.count_and_fail, (str(path), fault), context=method) as pool:
        with pytest.raises(BrokenPoolError, match=f"before they were ready; the last one {how}"):
            pool.map(tasks.square, range(5))
        with pytest.raises(BrokenPoolError):
            pool.apply(tasks.square, (1,))
        assert len(path.read_text().split()) in starts


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize(("fault", "error"), [("SIGKILL", BrokenPoolError), ("exception", InitializerError)])
def test_workers_die_before_they_have_what_they_are_started_with(
    factory: Factory, method: str, fault: str, error: type[Exception]
) -> None:
    """It is more than a pipe holds."""
    arguments = tasks.AtUnpickling(fault), bytes(1 << 20)
    with (
        factory(2, tasks.pass_over, arguments, context=method) as pool,
        pytest.raises(error),
    ):
        pool.map(tasks.square, range(5))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
def test_worker_dies_while_it_is_started(
    factory: Factory, method: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Then the way to it, or to the fork server, may end."""
    start, failures = BaseProcess.start, iter([error, None, error])

    def fail_at_times(process: BaseProcess) -> None:
        start(process)
        if (
            isinstance(process, ctx.Process)
            and "PoolWorker" in process.name
            and (failure := next(failures, None))
        ):
            process.kill()
            process.join()
            raise failure

    ctx: Any = multiprocessing.get_context(method)
    monkeypatch.setattr(BaseProcess, "start", fail_at_times)
    with factory(2, context=method) as pool:
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        wait_until(lambda: len(workers(pool)) == 2)
    assert next(failures, "all were raised") == "all were raised"


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize("error", [ConnectionRefusedError, EOFError])
def test_pickling_of_initargs_fails_as_if_a_worker_had_ended(
    factory: Factory, method: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="as ordered"):
        factory(2, tasks.pass_over, [tasks.FailsAtPickling(error)], context=method)


def test_replacement_cannot_be_started(
    factory: Factory, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Exception):  # noqa: N818 - it is what happened
        def __str__(self) -> str:  # noqa: PLE0307 - nor does it return anything else
            sys.exit("as initargs might, when they are pickled")

    def refuse(_: object) -> None:
        raise Refused

    with factory(1, context=method) as pool:
        monkeypatch.setattr(worker_handle.WorkerHandle, "start", refuse)
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.kill)
        with pytest.raises(BrokenPoolError, match=r"3 workers in a row.*could not be started: Refused"):
            pool.apply(tasks.square, (2,))


@pytest.mark.skipif("spawn" not in METHODS, reason="needs spawn")
def test_worker_dies_before_it_has_read_what_multiprocessing_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sys.argv`` is more than a pipe holds."""

    def pipes() -> set[str]:
        return {link for link in open_files() if link.startswith(("pipe:", "socket:"))}

    resource_tracker.ensure_running()  # it is no worker
    monkeypatch.setattr(sys, "argv", [*sys.argv, *map(str, range(50_000))])
    before = pipes()
    multiprocessing.set_executable("/bin/true")
    try:
        with (
            locked_pool(2, context="spawn") as pool,
            pytest.raises(BrokenPoolError, match=r"3 workers in a row.*the last one ended with exit code 0"),
        ):
            pool.map(tasks.square, range(5))
    finally:
        multiprocessing.set_executable(sys.executable)
    wait_until(lambda: pipes() <= before)
    assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is None  # nobody is left unburied


@pytest.mark.skipif("forkserver" not in METHODS, reason="needs forkserver")
def test_exit_code_is_right_though_another_thread_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork server tells it once."""

    def wait(*args: Any) -> list[Any]:
        ready = standard(*args)
        if ready and threading.current_thread() is not other and other.ident is None:
            other.start()
            other.join()
        return ready

    standard = multiprocessing.connection.wait
    other = threading.Thread(target=multiprocessing.active_children)
    with locked_pool(1, context="forkserver") as pool:
        pool.apply(tasks.square, (3,))
        monkeypatch.setattr(multiprocessing.connection, "wait", wait)
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(tasks.kill)
    assert other.ident
    assert caught.value.exitcode == -signal.SIGKILL


def test_initializer_that_failed_once_is_not_what_fails_later(
    factory: Factory, method: str, tmp_path: Path
) -> None:
    path = tmp_path / "fault"
    path.write_text("exception")
    with factory(1, tasks.fail_as_told, (str(path),), context=method) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        path.write_text("C exit")
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.kill)
        with pytest.raises(BrokenPoolError, match="exit code 0"):
            pool.apply(tasks.square, (3,))


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_initializer_runs_though_the_pool_is_closed_at_once(
    factory: Factory, method: str, tmp_path: Path, size: int
) -> None:
    pool = factory(2, tasks.touch, (str(tmp_path), bytes(size)), context=method)
    pool.close()
    pool.join()
    assert len(list(tmp_path.iterdir())) == 2


BAD_MAIN = """
import multiprocessing
import sys
from poollock import locked_pool

def f(*_):
    pass

if __name__ == "__main__":
    with locked_pool(2, f, [bytes(int(sys.argv[2]))], context=sys.argv[1]) as pool:
        try:
            pool.map(f, range(10))
        except Exception as error:
            print(type(error).__name__, multiprocessing.active_children())
else:
    raise ImportError("this main module cannot be imported")
"""


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize("size", [0, 1 << 20])
def test_workers_cannot_import_the_main_module(tmp_path: Path, method: str, size: int) -> None:
    (tmp_path / "bad_main.py").write_text(BAD_MAIN)
    done = subprocess.run(
        [sys.executable, "bad_main.py", method, str(size)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("BrokenPoolError")


def test_results_that_cannot_be_sent(pool: LockedPool) -> None:
    with pytest.raises(MaybeEncodingError, match=r"of _give_function'.*lambda"):
        pool.apply(_give_function)
    with pytest.raises(MaybeEncodingError, match="with a function") as caught:
        pool.apply(tasks.raise_unpicklable)
    assert "in raise_unpicklable" in str(caught.value.__cause__)
    with pytest.raises(MaybeEncodingError, match="1 and 2") as caught:
        pool.apply(tasks.raise_needs_two)
    assert "in raise_needs_two" in str(caught.value.__cause__)
    with pytest.raises(pickle.UnpicklingError, match=r"result of give_at_unpickling.*ValueError: as ordered"):
        pool.apply(tasks.give_at_unpickling, ("exception",))
    assert pool.apply(tasks.square, (2,)) == 4


def _give_function() -> Any:
    return lambda: None


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
    with pytest.raises(BrokenPoolError):
        result.get()


def test_callbacks_that_raise_or_wait(pool: LockedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def bad(_: object) -> NoReturn:
        raise ValueError("in a callback")

    assert pool.apply_async(tasks.square, (3,), callback=bad).get() == 9
    with pytest.raises(ValueError, match="as ordered"):
        pool.apply_async(tasks.run, ("exception",), error_callback=bad).get()
    assert pool.map_async(tasks.square, [1, 2], callback=bad).get() == [1, 4]
    assert [str(args.exc_value) for args in reported] == ["in a callback"] * 3
    # A callback may use the pool, and wait for it.
    seen: list[int] = []
    first = pool.apply_async(
        tasks.square, (3,), callback=lambda x: seen.append(pool.apply(tasks.square, (x,)))
    )
    assert first.get() == 9
    assert seen == [81]


class Lazy:
    """Has no more items than it says, and perhaps fewer."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise self.error("as ordered")
        return index


@pytest.mark.parametrize("chunksize", [1, None])
def test_items_of_which_there_are_fewer_than_they_say(pool: LockedPool, chunksize: int | None) -> None:
    cut_short: Any = Lazy(IndexError)
    with pytest.raises(ValueError, match="fewer items than its length"):
        pool.map(tasks.square, cut_short, chunksize)
    unreadable: Any = Lazy(OSError)
    errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    with pytest.raises(OSError, match="as ordered"):
        pool.map_async(tasks.square, unreadable, chunksize, error_callback=errors.put).get()
    assert isinstance(errors.get(), OSError)
    assert pool.apply(tasks.square, (3,)) == 9


def test_items_that_raise(pool: LockedPool) -> None:
    def items(error: type[BaseException]) -> Iterator[int]:
        yield 1
        raise error

    for error in (ZeroDivisionError, SystemExit, KeyboardInterrupt):
        results = pool.imap(tasks.square, items(error))
        assert next(results) == 1
        with pytest.raises(error):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
    assert pool.apply(tasks.square, (2,)) == 4


def test_stopped_worker_is_waited_for(factory: Factory, method: str, tmp_path: Path) -> None:
    path = tmp_path / "holds"
    with factory(2, context=method) as pool:
        holder = pool.apply_async(tasks.hold_while, (pool.lock, str(path)))
        pid = wait_for_pid(path)
        os.kill(pid, signal.SIGSTOP)
        waiter = pool.apply_async(tasks.with_lock, (pool.lock, 5))
        path.unlink()
        waiter.wait(1.5)  # longer than it takes to find a lock that nobody has signed for
        assert not waiter.ready()
        assert pool.lock.holder == pid
        os.kill(pid, signal.SIGCONT)
        assert holder.get() == pid
        assert waiter.get() == 5
        assert not pool.lock.abandoned


def test_terminate_ends_stopped_workers(factory: Factory, method: str) -> None:
    with factory(2, context=method) as pool:
        pool.map(tasks.square, range(4))
        pids = workers(pool)
        os.kill(pids[0], signal.SIGSTOP)
    assert not any(running(pid) for pid in pids)


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
        kept.append(os.dup(worker.end.sock.fileno()))
        standard(worker)

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    monkeypatch.setattr(worker_handle.WorkerHandle, "start", start)
    with factory(2, context=method) as pool:
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            pool.apply(tasks.kill)
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    for fd in kept:
        os.close(fd)


PARENT = """
import sys, time
from pathlib import Path
import fault_tasks as tasks
import poollock

if __name__ == "__main__":
    factory, method, path = sys.argv[1:]
    with getattr(poollock, factory)(3, context=method) as pool:
        pool.map(tasks.square, range(30), chunksize=1)
        busy = pool.apply_async(tasks.hold_while, (pool.lock, path))
        while not Path(path).exists():
            time.sleep(0.002)
        print(*[process.pid for process in pool._pool], Path(path).read_text(), flush=True)
        time.sleep(100)
"""


@pytest.mark.parametrize("factory", [locked_pool, manager_locked_pool], ids=["locked", "manager"])
def test_parent_is_killed(factory: Factory, method: str, tmp_path: Path) -> None:
    program, path = tmp_path / "parent.py", tmp_path / "holds"
    program.write_text(PARENT)
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, str(program), factory.__name__, method, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)]),
            "TMPDIR": str(tmp_path),  # nobody is left to remove what it makes there
        },
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        *all_pids, busy = map(int, parent.stdout.readline().split())
        group = _group(parent.pid)
        parent.kill()
        parent.wait()
    idle = [pid for pid in all_pids if pid != busy]
    wait_until(lambda: not any(running(pid) for pid in idle))
    assert running(busy)
    path.unlink()
    wait_until(lambda: not any(running(pid) for pid in group))


def _group(session: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session:
                found.append(int(entry.name))
    return found


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
        with pytest.raises(WorkerDiedError, match="may have had a lock"):
            waiting.get()
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
        unsigned = pool._channel._reclaimer._unsigned
        wait_until(lambda: unsigned[lock][1] > 2 * lock_recovery._LOOKS)
        assert lock.locked()
        sign.touch()
        other.join()
        wait_until(lambda: not unsigned)
        assert not lock.abandoned
        assert pool.apply(tasks.with_lock, (lock, 5)) == 5


def test_callbacks_when_there_are_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "callbacks":
            raise RuntimeError("can't start new thread")
        start(thread)

    with locked_pool(1) as pool:
        monkeypatch.setattr(threading.Thread, "start", fail)
        results = [pool.apply_async(tasks.square, (x,), callback=seen.append) for x in range(2)]
        assert [result.get() for result in results] == [0, 1]
        monkeypatch.undo()
        assert pool.apply_async(tasks.square, (2,), callback=seen.append).get() == 4
        pool.close()
        pool.join()
    assert seen == [0, 1, 4]


def test_pool_that_gets_no_thread_for_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if "handle_workers" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    monkeypatch.setattr(threading, "excepthook", reported.append)
    with locked_pool(2) as pool, pytest.raises(BrokenPoolError):
        pool.apply(tasks.square, (3,))
    assert [args.exc_type for args in reported] == [RuntimeError]


def test_terminate_by_another_thread_after_close(factory: Factory, method: str) -> None:
    with factory(2, context=method) as pool:
        pool.apply_async(time.sleep, (20,))
        pool.close()
        pool._task_handler.join()  # a later thread may have its ident
        pids = workers(pool)
        thread = threading.Thread(target=pool.terminate)
        thread.start()
        thread.join()
        assert not any(running(pid) for pid in pids)


def test_result_with_a_class_of_its_own_mind(pool: LockedPool) -> None:
    assert type(pool.apply(tasks.give_odd)) is tasks.Odd
    assert pool.apply(tasks.give_maybe_encoding_error).value == "'value'"


def test_callback_is_the_last_thing_before_the_end() -> None:
    pool = locked_pool(1)
    seen: list[int] = []
    go_on = threading.Event()

    def callback(x: int) -> None:
        go_on.wait()
        seen.append(x)

    pool.apply_async(tasks.square, (3,), callback=callback)
    wait_until(lambda: pool._channel._outcomes.pending)
    pool.close()
    go_on.set()
    pool.join()
    assert seen == [9]


def test_join_waits_for_the_callbacks_of_errors(tmp_path: Path) -> None:
    pool = locked_pool(1, tasks.count_and_fail, (str(tmp_path / "calls"), "exception"))
    seen: list[BaseException] = []

    def callback(error: BaseException) -> None:
        pool._result_handler.join(0.2)  # it has all the time to end first
        seen.append(error)

    pool.apply_async(tasks.square, (3,), error_callback=callback)
    pool.close()
    pool.join()
    assert [type(error) for error in seen] == [InitializerError]


def test_callback_that_joins_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def callback(_: object) -> None:
        pool.close()
        pool.join()

    with locked_pool(1) as pool:
        assert pool.apply_async(tasks.square, (3,), callback=callback).get() == 9
        pool.join()
    assert [args.exc_type for args in reported] == [RuntimeError]


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


def test_each_job_has_one_outcome_when_callbacks_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    go_on = threading.Event()

    def callback(_: object) -> None:
        go_on.wait()
        seen.append("result")

    with locked_pool(1) as pool:
        results = [
            pool.apply_async(
                tasks.square, (x,), callback=callback, error_callback=lambda _: seen.append("error")
            )
            for x in range(5)
        ]
        wait_until(lambda: pool._channel._outcomes.pending)
        pool.terminate()
        go_on.set()
        for result in results:
            result.wait()
    assert len(seen) == len(results)
    assert seen.count("result") == sum(result.successful() for result in results)


def test_items_that_come_while_the_pool_is_closed() -> None:
    pool = locked_pool(1)

    def items() -> Iterator[int]:
        pool.close()
        pool.join()
        yield 1

    with pytest.raises(BrokenPoolError):
        pool.map(tasks.square, items(), chunksize=1)


class Shy:
    """Dies when it is called, and does not say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no")

    def __call__(self) -> None:
        os._exit(3)


def test_length_of_results_that_have_failed_meanwhile() -> None:
    cache: dict[int, Any] = {}
    results: IMapIterator[int] = IMapIterator(cast("Any", SimpleNamespace(_cache=cache)))
    outcomes = PendingResults(cache, lambda: None)
    outcomes.fail_all(lambda: BrokenPoolError("as ordered"))
    outcomes.set_length(results, 1)
    with pytest.raises(BrokenPoolError):
        next(results)


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
        dispatcher = pool._channel._dispatcher
        wait_until(lambda: bool(dispatcher._idle))
        (worker,) = dispatcher.workers
        go_on = threading.Event()
        pool._channel._inbox.post(go_on.wait)  # the result handler does nothing else meanwhile
        result = pool.apply_async(bytes, (100_000,))
        multiprocessing.connection.wait([worker.death])
        go_on.set()
        assert result.get() == bytes(100_000)


def test_worker_dies_while_it_signs_for_a_task(factory: Factory, method: str) -> None:
    with factory(1, context=method) as pool:
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.die_signing, (0,))
        assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]


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


def test_error_whose_module_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when no descriptor is left: whoever waits learns what happened all the same."""
    monkeypatch.setitem(sys.modules, "poollock._broken", None)
    with locked_pool(1) as pool:
        result = pool.apply_async(tasks.stay_while, (str(tmp_path / "stays"),))
        pool.terminate()
        with pytest.raises(PoolLockError, match="terminated"):
            result.get()
