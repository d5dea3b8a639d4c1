"""Tasks that wait for each other's locks: one of them is told so; and those that only look like it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

import deadlock_tasks as tasks
import pytest

from helpers import TESTS, Factory, stop, wait_until
from poollock import DeadlockError, Lock, LockWait, RLock, Semaphore, locked_pool
from poollock._supervisor.deadlock_detector import DeadlockDetector

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def outcomes(results: list[AsyncResult[Any]]) -> tuple[list[Any], list[DeadlockError]]:
    """What tasks returned, and the errors of the others."""
    returned: list[Any] = []
    errors: list[DeadlockError] = []
    for result in results:
        try:
            returned.append(result.get())
        except DeadlockError as error:
            errors.append(error)
    return returned, errors


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_ring(factory: Factory, method: str, tmp_path: Path, names: str) -> None:
    with factory(len(names), locks=list(names), context=method) as pool:
        results = [
            pool.apply_async(tasks.take_in_turn, ((name, (names * 2)[index + 1]), str(tmp_path), names))
            for index, name in enumerate(names)
        ]
        returned, errors = outcomes(results)
        assert len(returned) == len(names) - 1
        (error,) = errors
        assert len(error.waits) == len(names)
        assert {wait.pid for wait in error.waits} == {pid for wait in error.waits for pid in wait.holders}
        assert {wait.lock for wait in error.waits} == {f"lock {name!r}" for name in names}
        assert "take_in_turn" in error.waits[0].task
        assert "same order" in str(error)
        assert not any(lock.locked() for lock in pool.locks.values())
        assert pool.lock_waits() == []


def test_error_is_raised_where_the_task_waits(factory: Factory, method: str, tmp_path: Path) -> None:
    with factory(2, locks=["a", "b"], context=method) as pool:
        first = pool.apply_async(tasks.take_and_catch, ("ab", str(tmp_path), "ab"))
        second = pool.apply_async(tasks.take_and_catch, ("ba", str(tmp_path), "ab"))
        pids = sorted([first.get(), second.get()])
        assert pids[0] == []
        assert len(pids[1]) == 2
        assert pool.map(tasks.just_take, "abab") == [*"abab"]


@pytest.mark.parametrize("kind", [Lock, Semaphore])
def test_lock_taken_twice(factory: Factory, method: str, kind: Any) -> None:
    with factory(1, locks={"lock": kind(context=method)}, context=method) as pool:
        with pytest.raises(DeadlockError, match="RLock") as caught:
            pool.apply(tasks.take_twice)
        assert [wait.holders for wait in caught.value.waits] == [(caught.value.waits[0].pid,)]
        assert pool.apply(tasks.just_take, ("lock",)) == "lock"


def test_task_that_is_slow_to_hear_of_it_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    checks = 0
    tell, needs = (vars(DeadlockDetector)[name] for name in ("_tell", "_needs"))

    def stop_and_tell(detector: DeadlockDetector, victim: Any, *rest: Any) -> None:
        stop(victim.pid)
        told.append(victim.pid)
        tell(detector, victim, *rest)

    def count(detector: DeadlockDetector) -> Any:
        nonlocal checks
        checks += bool(told)
        return needs(detector)

    monkeypatch.setattr(DeadlockDetector, "_tell", stop_and_tell)
    monkeypatch.setattr(DeadlockDetector, "_needs", count)
    with locked_pool(1) as pool:
        result = pool.apply_async(tasks.take_twice)
        wait_until(lambda: checks >= 5)
        os.kill(told[0], signal.SIGCONT)
        with pytest.raises(DeadlockError):
            result.get()
    assert len(told) == 1


def test_rlock_taken_twice(factory: Factory, method: str) -> None:
    with factory(1, locks={"lock": RLock(context=method)}, context=method) as pool:
        pool.apply(tasks.take_twice)


def test_more_tasks_than_workers(factory: Factory) -> None:
    with factory(4, locks=["a", "b", "c"]) as pool:
        results = [pool.apply_async(tasks.take_two_of_three, (number,)) for number in range(12)]
        returned, errors = outcomes(results)
        assert len(returned) + len(errors) == 12
        assert returned


def test_semaphore_in_a_ring(factory: Factory, method: str, tmp_path: Path) -> None:
    locks = {"places": Semaphore(2, context=method), "lock": Lock(context=method)}
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    with factory(3, locks=locks, context=method) as pool:
        results = [
            pool.apply_async(tasks.fill_then_take, ("places", "lock", one, three)),
            pool.apply_async(tasks.fill_then_take, ("places", "lock", two, three)),
            pool.apply_async(tasks.take_then_enter, ("lock", "places", three, (one, two))),
        ]
        returned, errors = outcomes(results)
        assert len(errors) == 1
        assert len(returned) == 2


def test_only_who_is_in_the_ring_is_told(factory: Factory, tmp_path: Path) -> None:
    """The one that waits behind it began to wait last."""
    with factory(3, locks=["a", "b"]) as pool:
        ring = [pool.apply_async(tasks.take_in_turn, (names, str(tmp_path), "ab")) for names in ("ab", "ba")]
        wait_until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
        behind = pool.apply_async(tasks.just_take, ("a",))
        returned, errors = outcomes(ring)
        assert len(returned) == len(errors) == 1
        assert behind.get() == "a"


PROGRAM = """
import sys
import deadlock_tasks as tasks
import poollock

if __name__ == "__main__":
    factory = getattr(poollock, sys.argv[1])
    with factory(1, context=sys.argv[2]) as pool:
        try:
            with pool.lock:
                getattr(pool, sys.argv[3])(*eval(sys.argv[4]))
        except poollock.DeadlockError as error:
            print(error.pool_pid, error)
        print(pool.apply(tasks.just_take, ("lock",)))
"""


@pytest.mark.parametrize(
    ("call", "arguments"),
    [("apply", "tasks.just_take, ('lock',)"), ("map", "tasks.just_take, ['lock'] * 3, 1")],
)
def test_pool_itself_holds_the_lock(
    factory: Factory, method: str, tmp_path: Path, call: str, arguments: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), factory.__name__, method, call, arguments],
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS / 'faults'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "holds a lock and waits for the result" in done.stdout
    assert done.stdout.splitlines()[-1] == "lock"


# What only looks like it.


def test_holder_that_works_or_is_stopped(factory: Factory, method: str, tmp_path: Path) -> None:
    held, go_on = tmp_path / "held", tmp_path / "go-on"
    with factory(3, context=method) as pool:
        holder = pool.apply_async(tasks.hold_until, ("lock", str(held), str(go_on)))
        wait_until(held.exists)
        waiting = [pool.apply_async(tasks.just_take, ("lock",)) for _ in range(2)]
        wait_until(lambda: len(pool.lock_waits()) == 2)
        (pid,) = pool.lock.holders
        os.kill(pid, signal.SIGSTOP)
        assert {wait.holders for wait in pool.lock_waits()} == {(pid,)}
        assert all(wait.seconds >= 1 for wait in pool.lock_waits())
        several_checks(pool)
        os.kill(pid, signal.SIGCONT)
        go_on.touch()
        assert holder.get() == pid
        assert [result.get() for result in waiting] == ["lock"] * 2


def test_chain_that_ends_in_one_who_works(factory: Factory, tmp_path: Path) -> None:
    held, go_on = tmp_path / "c", tmp_path / "go-on"
    with factory(3, locks=["a", "b", "c"]) as pool:
        holder = pool.apply_async(tasks.hold_until, ("c", str(held), str(go_on)))
        chain = [
            pool.apply_async(tasks.take_in_turn, (names, str(tmp_path), others))
            for names, others in (("bc", "c"), ("ab", "b"))
        ]
        wait_until(lambda: len(pool.lock_waits()) == 2)
        several_checks(pool)
        go_on.touch()
        assert [result.get() for result in chain] == ["b", "a"]
        assert holder.get()


def test_wait_with_a_time_limit_is_left_alone(factory: Factory, tmp_path: Path) -> None:
    with factory(2, locks=["a", "b"]) as pool:
        limited = pool.apply_async(tasks.wait_with_limit, ("ab", str(tmp_path), "ab", 3.0))
        other = pool.apply_async(tasks.take_in_turn, ("ba", str(tmp_path), "ab"))
        assert not limited.get()
        assert other.get() == "b"


def several_checks(pool: Any) -> None:
    """Wait until each wait has been looked at several times."""
    before = {(wait.pid, wait.lock): wait.seconds for wait in pool.lock_waits()}
    wait_until(
        lambda: all(wait.seconds > before.get((wait.pid, wait.lock), 0) + 1.5 for wait in pool.lock_waits())
    )


def test_error_survives_pickling() -> None:
    wait = LockWait("work, item 3", 12, "lock 'a'", (13, 14), 1.25)
    error = pickle.loads(pickle.dumps(DeadlockError((wait,), 11)))
    assert error.waits == (wait,)
    assert error.pool_pid == 11
    assert str(error) == str(DeadlockError((wait,), 11))
