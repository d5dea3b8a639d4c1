"""Locks on Windows: what asking takes, who has ended, what several processes write at once."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from helpers import wait_until
from poollock import BaseLock, Lock, PoolLockError, RLock, Semaphore, locked_pool

if sys.platform != "win32":
    pytest.skip("what is particular to Windows", allow_module_level=True)
assert sys.platform == "win32"  # for type checkers that do not see that the line before raises

from poollock._backend import windows
from poollock._backend.process import is_gone

SPAWN = multiprocessing.get_context("spawn")
# One for the gate, and two that repeat it.
KINDS = [
    Lock,
    pytest.param(RLock, marks=pytest.mark.slow),
    pytest.param(partial(Semaphore, 2), marks=pytest.mark.slow),
]


# To ask a lock takes nothing.


@pytest.mark.parametrize("make", KINDS)
def test_to_ask_takes_nothing(make: Callable[..., BaseLock]) -> None:
    """Another process asks again and again; an attempt to take the lock that does not wait succeeds."""
    lock = make()
    stop = SPAWN.Event()
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=ask, args=(lock, stop, sender))
    process.start()
    assert receiver.recv() == "asking"
    end = time.monotonic() + 2
    failed = attempts = 0
    while time.monotonic() < end:
        attempts += 1
        if lock.acquire(block=False):
            lock.release()
        else:
            failed += 1
    stop.set()
    assert receiver.recv() > 1000
    process.join()
    assert (failed, attempts > 1000) == (0, True)


def ask(lock: Any, stop: Any, sender: Any) -> None:
    sender.send("asking")
    asked = 0
    while not stop.is_set():
        for _ in range(100):
            lock.locked()
            lock._is_unrecorded()
            if isinstance(lock, Semaphore):
                lock.get_value()
        asked += 100
    sender.send(asked)


@pytest.mark.parametrize("make", KINDS)
def test_answers(make: Callable[..., BaseLock]) -> None:
    lock = make()
    assert not lock.locked()
    places = 2 if isinstance(lock, Semaphore) else 1
    for _ in range(places):
        assert not lock.locked()
        lock.acquire()
    assert lock.locked()
    assert lock.holders == (os.getpid(),) * places
    if isinstance(lock, Semaphore):
        assert lock.get_value() == 0
        lock.release()
        assert lock.get_value() == 1
    lock.release()
    assert not lock.locked()


# Processes that have ended.


def test_process_that_is_gone_is_known_to_be_gone() -> None:
    assert not is_gone(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_gone(process.pid)
    process.communicate(b"\n")
    assert process.returncode == 0
    assert is_gone(process.pid)  # though a handle of it is open
    pid = process.pid
    del process
    assert is_gone(pid)
    assert is_gone(0xFFFFFFF0)


@pytest.mark.parametrize("make", KINDS)
def test_nobody_waits_for_a_lock_that_the_killed_parent_had(make: Callable[..., BaseLock]) -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    go = SPAWN.Event()
    parent = SPAWN.Process(target=be_the_parent, args=(make, go, sender))
    parent.start()
    child_pid = receiver.recv()
    parent.kill()
    parent.join()
    go.set()
    assert receiver.recv() == "PoolLockError"
    wait_until(lambda: is_gone(child_pid))


def be_the_parent(make: Callable[..., BaseLock], go: Any, sender: Any) -> None:
    lock = make()
    while lock.acquire(block=False):
        if isinstance(lock, RLock):
            break
    child = SPAWN.Process(target=wait_for_the_lock, args=(lock, go, sender))
    child.start()
    time.sleep(600)


def wait_for_the_lock(lock: BaseLock, go: Any, sender: Any) -> None:
    sender.send(os.getpid())  # it has all that it needs of its parent
    go.wait()
    try:
        lock.acquire()
    except PoolLockError as error:
        sender.send(type(error).__name__)
    else:
        sender.send("acquired")


# What several processes write at once.


def test_places_that_other_processes_release() -> None:
    """Each counts them in the row of the process that has taken them."""
    each, writers = 300, 4
    semaphore = Semaphore(each * writers)
    for _ in range(each * writers):
        semaphore.acquire()
    with locked_pool(writers, locks={"places": semaphore}) as pool:
        pool.starmap(release_often, [(semaphore, each)] * writers, chunksize=1)
    assert semaphore.holders == ()
    assert semaphore.get_value() == each * writers


def release_often(semaphore: Semaphore, times: int) -> None:
    for _ in range(times):
        semaphore.release()


def test_words_are_one_processs_at_a_time() -> None:
    semaphore = Semaphore()
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=be_exclusive, args=(semaphore, sender))
    process.start()
    assert receiver.recv() == "inside"
    began = time.monotonic()
    with semaphore._shared.exclusive():  # in vain, after a second
        pass
    assert time.monotonic() - began > 0.9
    process.kill()
    process.join()
    began = time.monotonic()
    with semaphore._shared.exclusive():
        pass
    assert time.monotonic() - began < 0.9


def be_exclusive(semaphore: Semaphore, sender: Any) -> None:
    with semaphore._shared.exclusive():
        sender.send("inside")
        time.sleep(600)


def test_mutex_is_taken_again_by_its_thread() -> None:
    with windows.named_mutex(r"Local\poollock-test", 0) as outer:
        with windows.named_mutex(r"Local\poollock-test", 0) as inner:
            assert outer
            assert inner
        process = SPAWN.Process(target=exit_with, args=(r"Local\poollock-test",))
        process.start()
        process.join()
        assert process.exitcode == 0
    process = SPAWN.Process(target=exit_with, args=(r"Local\poollock-test",))
    process.start()
    process.join()
    assert process.exitcode == 1


def exit_with(name: str) -> None:
    with windows.named_mutex(name, 0) as acquired:
        sys.exit(int(acquired))
