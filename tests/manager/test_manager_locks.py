"""The locks of a manager: who has one, what becomes of it when that one ends, and the connections to it."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tasks
from helpers import needs_fork, needs_posix, open_files, wait_until
from poollock import BaseLock, RLock, Semaphore, manager_locked_pool
from poollock._locks import waiting
from poollock._manager import connection as connection_module
from poollock._manager.connection import LockConnection
from poollock._manager.manager import LockManager
from poollock._manager.proxies import ManagerSemaphore, make_lock


def start(target: Any, *args: Any, method: str = "spawn") -> Any:
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=target, args=args)
    process.start()
    return process


def sockets() -> int:
    """Return how many sockets this process has open, but for those of locks that are gone."""
    gc.collect()
    return sum(link.startswith("socket:") for link in open_files().elements())


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()


def test_client_that_dies_gives_the_lock_back(lock: BaseLock) -> None:
    start(tasks.hold_and_die, lock).join()
    with lock.hold(30):
        assert lock.holder == os.getpid()
        assert lock.abandoned
        lock.mark_consistent()
    assert not lock.abandoned


def test_client_that_dies_waiting_does_not_get_the_lock(lock: BaseLock, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with lock:
        process = start(wait_for, lock, str(flag))
        wait_until(flag.exists)
        process.kill()
        process.join()
    with lock.hold(30):
        pass
    assert not lock.abandoned


def wait_for(lock: BaseLock, path: str) -> None:
    assert lock.locked()
    Path(path).touch()
    lock.acquire()


def test_client_that_is_killed_in_the_middle(lock: BaseLock, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    process = start(tasks.hold_until, lock, str(flag))
    wait_until(flag.exists)
    assert lock.holder == process.pid
    process.kill()
    process.join()
    with lock.hold(30):
        assert lock.abandoned
        lock.mark_consistent()


@needs_fork
def test_client_that_dies_and_leaves_a_process_with_copies_of_its_connections(
    lock: BaseLock, tmp_path: Path
) -> None:
    """As a program in C may fork it, which calls no hook: the pool tells the manager of the death."""
    flag = tmp_path / "flag"
    process = start(hold_and_leave_a_copy, lock, str(flag), method="fork")
    wait_until(flag.exists)
    process.join()
    assert lock.holder == process.pid
    assert lock._recover(process.pid)
    assert not lock._recover(process.pid)
    assert not lock.locked()
    assert lock.abandoned
    flag.unlink()


def hold_and_leave_a_copy(lock: BaseLock, flag: str) -> None:
    connection_module._connections.clear()
    lock.acquire()
    connection_module._connections.clear()
    if os.fork() == 0:
        Path(flag).touch()
        wait_until(lambda: not Path(flag).exists())
    os._exit(0)


def test_thread_that_ends_keeps_the_lock_as_in_multiprocessing(manager: LockManager) -> None:
    lock = make_lock(manager)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    gc.collect()
    assert lock.holder == os.getpid()
    lock.release()
    assert not lock.locked()
    assert not lock.abandoned


def test_released_too_often_and_by_another(manager: LockManager) -> None:
    lock = make_lock(manager)
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    assert lock.acquire()
    start(lock.release).join()
    assert not lock.locked()
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    with lock:
        assert lock.locked()
    assert not lock.locked()


def test_lock_that_another_process_released_is_not_taken_from_a_third(manager: LockManager) -> None:
    lock, ready = make_lock(manager), make_lock(manager)
    lock.acquire()
    process = start(release_and_take, lock, ready)
    wait_until(ready.locked)
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    assert lock.holder == process.pid
    process.kill()
    process.join()


def release_and_take(lock: BaseLock, ready: BaseLock) -> None:
    lock.release()
    lock.acquire()
    ready.acquire()
    ready.acquire()


def test_semaphore_counts_what_others_release(manager: LockManager) -> None:
    """As in multiprocessing: who has taken it may release it too, or as often as anybody likes."""
    semaphore = make_lock(manager, Semaphore(1))
    assert isinstance(semaphore, ManagerSemaphore)
    semaphore.acquire()
    start(semaphore.release).join()
    semaphore.release()
    semaphore.release()
    assert semaphore.get_value() == 3
    assert semaphore.holders == ()
    for _ in range(3):
        assert semaphore.acquire(block=False)
    assert not semaphore.acquire(block=False)


def test_semaphore_of_no_places_wakes_one_for_each_release(manager: LockManager) -> None:
    semaphore = make_lock(manager, Semaphore(0))
    with ThreadPoolExecutor(2) as executor:
        waits = [executor.submit(semaphore.acquire) for _ in range(2)]
        for count in (1, 2):
            semaphore.release()
            wait_until(lambda count=count: sum(wait.done() for wait in waits) == count)  # type: ignore[misc] # mypy wants a type there
    assert semaphore.locked()


def test_rlock_is_taken_again_by_its_thread_only(manager: LockManager) -> None:
    lock = make_lock(manager, RLock())
    assert repr(lock) == "<ManagerRLock free>"
    with lock, lock:
        assert lock.acquire(block=False)
        lock.release()
        assert not in_thread(lambda: lock.acquire(block=False))
        with pytest.raises(AssertionError, match="not held by this thread of process"):
            in_thread(lock.release)
        assert lock.holder == os.getpid()
    assert not lock.locked()
    with pytest.raises(AssertionError, match="not held by this thread of process 'MainProcess'"):
        lock.release()
    assert in_thread(lambda: lock.acquire(block=False))


def test_rlock_taken_more_often_than_released_in_a_task() -> None:
    with manager_locked_pool(1, locks={"lock": RLock()}) as pool:
        with pytest.warns(RuntimeWarning, match="'lock'"):
            pool.apply(take_three_times)
        with pool.lock:
            assert not pool.lock.abandoned
        with pytest.warns(RuntimeWarning, match="'lock'"):
            pool.apply(take_three_times)
        assert not pool.lock.locked()


def take_three_times(lock: BaseLock) -> None:
    with lock:
        lock.acquire()
        lock.acquire()


@needs_fork
@pytest.mark.parametrize("kind", [None, RLock()], ids=["lock", "rlock"])
def test_forked_child_has_its_own_connection(manager: LockManager, kind: BaseLock | None) -> None:
    lock, other = make_lock(manager, kind), make_lock(manager, kind)
    with lock:
        process = start(exit_holding, lock, other, method="fork")
        process.join()
        assert process.exitcode == 0
        assert lock.holder == os.getpid()
    with other.hold(30):  # it was given back when the child's connection ended
        assert other.abandoned


def exit_holding(lock: BaseLock, other: BaseLock) -> None:
    other.acquire()
    os._exit(int(lock.acquire(block=False) or lock._is_held_here() or lock._release_if_held()))


@needs_fork
def test_forked_child_may_release_what_its_parent_has_as_in_multiprocessing(manager: LockManager) -> None:
    lock = make_lock(manager)
    lock.acquire()
    process = start(lock.release, method="fork")
    process.join()
    assert process.exitcode == 0
    assert not lock.locked()


@needs_fork
def test_child_forked_while_a_thread_connects_has_no_copy(
    manager: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, before, codes = make_lock(manager), sockets(), list[int]()

    def answer(connection: Any, key: bytes) -> None:
        assert sockets() == before + 1
        pid = os.fork()
        if pid == 0:
            os._exit(sockets() - before)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        standard(connection, key)

    standard = multiprocessing.connection.answer_challenge
    monkeypatch.setattr(connection_module, "answer_challenge", answer)
    with lock:
        pass
    assert codes == [0]


def test_threads_that_release_at_once(manager: LockManager) -> None:
    semaphore = make_lock(manager, Semaphore(4))
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    ready = threading.Barrier(4)

    def release() -> None:
        ready.wait()
        semaphore.release()

    try:
        for _ in range(100):
            for _ in range(4):
                semaphore.acquire()
            threads = [threading.Thread(target=release) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert semaphore.holders == ()
    finally:
        sys.setswitchinterval(switch)


def test_release_is_done_for_whoever_learns_of_it(manager: LockManager) -> None:
    """It waits for no answer; but one that is told of it finds the lock free."""
    lock = make_lock(manager)
    ours, theirs = multiprocessing.Pipe()
    process = start(try_when_told, lock, theirs)
    for _ in range(500):
        lock.acquire()
        lock.release()
        ours.send("try")
        assert ours.recv()
    ours.send(None)
    process.join()


def try_when_told(lock: BaseLock, told: Any) -> None:
    while told.recv():
        taken = lock.acquire(block=False)
        if taken:
            lock.release()
        told.send(taken)


def test_wrong_arguments_do_no_harm(manager: LockManager) -> None:
    lock = make_lock(manager)
    wrong: Any = "soon"
    with lock:
        with pytest.raises(ValueError, match="soon"):
            lock.acquire(timeout=wrong)
        assert lock.holder == os.getpid()
        assert not lock.acquire(timeout=float("nan"))
        assert not lock.acquire(timeout=-1)
    for timeout in (1e12, float("inf")):
        assert lock.acquire(timeout=timeout)
        lock.release()
    assert not lock.abandoned


def test_wait_for_a_limited_time(manager: LockManager) -> None:
    lock, done = make_lock(manager), threading.Event()
    with lock:
        assert not in_thread(lambda: lock.acquire(timeout=0.1))
    thread = threading.Thread(target=lambda: (lock.acquire(timeout=0.5), done.wait(), lock.release()))
    thread.start()
    wait_until(lock.locked)
    assert not lock.acquire(timeout=0.1)
    done.set()
    thread.join()
    assert lock.acquire(timeout=30)
    lock.release()


def test_wait_that_is_long_keeps_its_turn(manager: LockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_INTERVAL", 0.002)
    monkeypatch.setattr(waiting, "INTERVAL", 0.001)
    lock, asked, turns = make_lock(manager), threading.Event(), list[str]()
    threads = [threading.current_thread()]

    def take_turn(name: str) -> None:
        with lock:
            turns.append(name)

    def receive(connection: LockConnection, timeout: float | None = None) -> bool:
        if threading.current_thread() is threads[-1]:
            asked.set()
        return standard(connection, timeout)

    standard = LockConnection.receive
    monkeypatch.setattr(LockConnection, "receive", receive)
    for _ in range(10):
        lock.acquire()
        threads.clear()
        for name in "abcd":
            asked.clear()
            threads.append(threading.Thread(target=take_turn, args=(name,)))
            threads[-1].start()
            asked.wait()
            assert lock.locked()  # the manager has read the thread's request before this one
        lock.release()
        for thread in threads:
            thread.join()
    assert "".join(turns) == 10 * "abcd"


def test_lock_of_another_manager_is_used_as_it_is(manager: LockManager) -> None:
    lock = make_lock(manager)
    with manager_locked_pool(1, locks={"lock": lock}) as pool:
        assert pool.lock is lock
        with lock:
            assert not pool.apply(tasks.try_lock)
        assert pool.apply(tasks.try_lock)


@needs_posix
def test_worker_has_one_connection_for_each_lock(method: str) -> None:
    with manager_locked_pool(2, context=method, locks=("lock", "log")) as pool:
        seen: dict[int, list[int]] = {}
        for lock in pool.locks.values():
            for pid, open_sockets in pool.starmap(tasks.sockets, [(lock, x) for x in range(40)], chunksize=1):
                seen.setdefault(pid, []).append(len(open_sockets))
    assert all(max(counts) - min(counts) <= 1 for counts in seen.values())


@needs_posix
def test_connections_end_with_their_thread_and_with_their_lock(manager: LockManager) -> None:
    lock, before = make_lock(manager), sockets()
    for _ in range(2):
        use(lock)
    assert sockets() == before + 2  # the second is for what is asked while the first carries the grant
    with ThreadPoolExecutor(8) as executor:
        for _ in range(80):
            executor.submit(use, lock)
    assert sockets() == before + 2
    del lock
    assert sockets() == before


def use(lock: BaseLock) -> None:
    with lock:
        assert lock.locked()


def test_semaphore_taken_by_one_thread_and_released_by_another(manager: LockManager) -> None:
    semaphore, before = make_lock(manager, Semaphore(2)), sockets()
    with ThreadPoolExecutor(1) as executor:
        for _ in range(50):
            executor.submit(semaphore.acquire).result()
            semaphore.release()
        assert semaphore.holders == ()
        assert sockets() <= before + 3


def test_semaphore_taken_by_one_process_and_released_by_another(manager: LockManager) -> None:
    semaphore, full, before = make_lock(manager, Semaphore(2)), make_lock(manager, Semaphore(0)), sockets()
    process = start(release_each, semaphore, full)
    for _ in range(50):
        semaphore.acquire()
        full.release()
    process.join()
    assert semaphore.holders == ()
    assert sockets() <= before + 6


def release_each(semaphore: BaseLock, full: BaseLock) -> None:
    for _ in range(50):
        full.acquire()
        semaphore.release()
