"""RLock: who may take it again, and what a forked process has of it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import pytest

from helpers import in_child, in_thread, wait_until
from poollock import RLock

ME = os.getpid()

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def test_it_is_taken_again_by_its_thread_only() -> None:
    lock = RLock()
    with lock, lock:
        assert lock.acquire(block=False)
        lock.release()
        assert not in_thread(lambda: lock.acquire(block=False))
        assert lock.holder == ME
    assert not lock.locked()
    with pytest.raises(AssertionError, match="not held by this thread of process 'MainProcess'"):
        lock.release()


def test_it_is_held_until_it_was_released_as_often_as_it_was_taken() -> None:
    lock = RLock()
    for _ in range(3):
        assert lock.acquire()
    for _ in range(3):
        assert lock.holder == ME
        assert not in_thread(lambda: lock.acquire(block=False))
        lock.release()
    assert lock.holder == 0
    assert in_thread(lambda: lock.acquire(block=False))


def refuses(release: Callable[[], None]) -> bool:
    try:
        release()
    except AssertionError:
        return True
    return False


@needs_fork
def test_a_forked_process_does_not_have_what_its_parent_has() -> None:
    lock = RLock(context="fork")

    def check() -> None:
        assert not lock.acquire(block=False)  # though its thread has the ident of the parent's
        assert refuses(lock.release)
        assert refuses(lock.__exit__)  # as a `with` block does that it was forked in
        assert lock.holder == ME

    with lock:
        assert in_child(check) == 0
        assert lock.holder == ME
    assert not lock.locked()


@needs_fork
def test_processes_that_are_forked_by_the_holder_take_it_later() -> None:
    context = multiprocessing.get_context("fork")
    lock, go = RLock(context="fork"), context.Event()
    with lock, lock:
        process = context.Process(target=take_alone, args=(lock, go))
        process.start()
        pid = os.fork()
        if pid == 0:  # by a program that knows nothing of multiprocessing
            take_alone(lock, go)
    go.set()
    process.join()
    assert process.exitcode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not lock.locked()


def take_alone(lock: RLock, go: Any) -> None:
    try:
        go.wait()
        assert lock.acquire(timeout=20)
        assert lock.holder == os.getpid()
        assert lock.acquire(block=False)
        lock.release()
        assert lock.locked()
        lock.release()
    except BaseException:
        os._exit(1)
    os._exit(0)


@needs_fork
@pytest.mark.parametrize("times", [1, 3])
def test_it_is_freed_if_its_holder_died_however_often_that_had_taken_it(times: int) -> None:
    lock = RLock(context="fork")
    process = multiprocessing.get_context("fork").Process(target=take_and_die, args=(lock, times))
    process.start()
    process.join()
    assert lock.holder == process.pid
    assert not lock.acquire(block=False)
    assert not lock._recover(ME)
    assert lock._recover(process.pid or 0)
    assert not lock._recover(process.pid or 0)
    assert (lock.holder, lock.abandoned) == (0, True)
    with lock, lock:
        assert not in_thread(lambda: lock.acquire(block=False))
    assert not lock.locked()


def take_and_die(lock: RLock, times: int) -> None:
    for _ in range(times):
        lock.acquire()
    os._exit(1)


@needs_fork
def test_what_a_thread_had_that_has_ended_is_given_back_at_the_end_of_the_task() -> None:
    lock = RLock()

    def run_task() -> None:
        in_thread(lambda: lock.acquire() and lock.acquire())
        assert not lock.acquire(block=False)
        assert lock._release_if_held()
        assert not lock.locked()
        with lock, lock:
            assert lock.holder == os.getpid()
        assert not lock.locked()

    assert in_child(run_task) == 0  # where no other thread is alive


def test_locked_in_another_process(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    lock = RLock(context=method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report_locked, args=(lock, sender))
    with lock:
        process.start()
        assert receiver.recv() == (True, ME)
    wait_until(lambda: not lock.locked())
    process.join()
    assert process.exitcode == 0


def report_locked(lock: RLock, sender: Any) -> None:
    sender.send((lock.locked(), lock.holder))
    with lock, lock:
        assert lock.holder == os.getpid()
