"""Signal handlers in the middle of a manager's lock: what they raise, and what they use themselves."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from helpers import interrupted_at, needs_posix, open_files, signalled_inside, wait_until
from poollock import BaseLock, RLock, Semaphore
from poollock._manager import connection
from poollock._manager.manager import LockManager
from poollock._manager.proxies import make_lock


def use(lock: BaseLock) -> None:
    with lock:
        pass


def use_with_time_limit(lock: BaseLock) -> None:
    assert lock.acquire(timeout=20)
    lock.release()


def try_in_vain(lock: BaseLock) -> None:
    assert not lock.acquire(block=False)


def ask(lock: BaseLock) -> None:
    assert lock.locked()


def use_twice(lock: BaseLock) -> None:
    with lock, lock:
        pass


@pytest.mark.parametrize(
    ("like", "function"),
    [(None, use), (None, use_with_time_limit), (RLock(), use_twice), (Semaphore(1), use)],
    ids=["lock", "with a time limit", "rlock", "semaphore"],
)
def test_exception_at_each_step(
    manager: LockManager, like: BaseLock | None, function: Callable[[BaseLock], None]
) -> None:
    """Nobody has died, so the lock is not abandoned; and no connection is left over."""
    lock, count = make_lock(manager, like), 1
    open_before = open_files().total()
    while interrupted_at(count, lambda: function(lock)):
        lock._release_if_held()  # as a worker does when the task has ended
        assert (lock.locked(), lock.holders, lock.abandoned) == (False, (), False), f"at step {count}"
        count += 1
    assert count > 100
    gc.collect()
    assert open_files().total() <= open_before + 2


@pytest.mark.parametrize("like", [None, RLock(), Semaphore(1)], ids=["lock", "rlock", "semaphore"])
@pytest.mark.parametrize("function", [repr, ask, try_in_vain])
def test_exception_at_each_step_while_the_lock_is_held(
    manager: LockManager, like: BaseLock | None, function: Callable[[BaseLock], object]
) -> None:
    """The lock stays taken; the rest of an answer is not taken for the next one."""
    lock, count = make_lock(manager, like), 1
    if isinstance(like, RLock) and function is try_in_vain:
        pytest.skip("not in vain")
    with lock:
        while interrupted_at(count, lambda: function(lock)):
            assert lock.holders == (os.getpid(),), f"at step {count}"
            count += 1
        assert count > 30
    assert not lock.locked()
    assert not lock.abandoned


def test_exception_at_each_step_of_a_release_by_another_thread(manager: LockManager) -> None:
    lock, count, ended = make_lock(manager), 1, False
    while not ended:
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
        ended = not interrupted_at(count, lock.release)
        lock._release_if_held()
        assert (lock.locked(), lock.abandoned) == (False, False), f"at step {count}"
        count += 1


def give_up(*_: object) -> NoReturn:
    raise TimeoutError("by an alarm")


def interrupted(function: Callable[[], Any]) -> None:
    with signalled_inside(give_up), pytest.raises(TimeoutError, match="by an alarm"):
        function()


@needs_posix
def test_wait_that_is_interrupted(manager: LockManager) -> None:
    """The lock taken before stays ours, the one waited for is not lost."""
    outer, inner = make_lock(manager), make_lock(manager)
    ready, done = threading.Event(), threading.Event()

    def hold_inner() -> None:
        with inner:
            ready.set()
            done.wait()

    thread = threading.Thread(target=hold_inner)
    thread.start()
    ready.wait()
    try:
        with outer:
            for _ in range(2):
                interrupted(inner.acquire)
                assert outer.holder == os.getpid()
            done.set()
            thread.join()
            assert outer.locked()
        with inner.hold(30), outer.hold(30):
            pass
        assert not outer.abandoned
        assert not inner.abandoned
    finally:
        done.set()


@needs_posix
def test_wait_that_is_interrupted_and_tried_again(manager: LockManager) -> None:
    """What the first wait may have been granted must not stand in the way of the second."""
    outer, inner = make_lock(manager), make_lock(manager)
    told = multiprocessing.get_context("spawn").Event()
    process = multiprocessing.get_context("spawn").Process(target=hold_until_told, args=(inner, told))
    process.start()
    wait_until(inner.locked)
    with outer:
        try:
            with signalled_inside(give_up):
                inner.acquire()
        except TimeoutError:  # it has the frames of the first wait
            told.set()
            process.join()
            assert inner.acquire(timeout=30)
        inner.release()
    assert not inner.abandoned
    assert not outer.abandoned


def hold_until_told(lock: BaseLock, told: Any) -> None:
    with lock:
        told.wait()


@needs_posix
def test_interrupted_wait_is_not_in_the_way_of_others(manager: LockManager) -> None:
    """As soon as it is interrupted, not when its turn would come."""
    lock, seen = make_lock(manager, Semaphore(2)), list[bool]()
    lock.acquire()
    lock.acquire()
    for _ in range(3):
        interrupted(lock.acquire)
    for _ in range(2):
        lock.release()
        seen.append(lock.acquire(block=False))
        lock.release()
    assert seen == [True, True]


@needs_posix
def test_signal_while_a_connection_waits_to_be_accepted(tmp_path: Path) -> None:
    """CPython takes it for connected then."""
    address, noted = str(tmp_path / "socket"), threading.Event()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as clients:
        listener.bind(address)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):  # as soon as no more can wait
            while True:
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(0)
                client.connect(address)

        def accept() -> None:
            noted.wait()
            listener.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        ours = clients.enter_context(connection._Socket(socket.AF_UNIX))
        with signalled_inside(lambda *_: noted.set()):
            ours.connect_to(address)
        thread.join()
        assert ours.getpeername() == address


@needs_posix
def test_signal_handler_that_uses_another_lock(manager: LockManager) -> None:
    first, second, taken = make_lock(manager), make_lock(manager), make_lock(manager)
    seen: list[Any] = []

    def look(*_: object) -> None:
        seen.extend([taken.acquire(block=False), second.acquire(block=False), second.holder, repr(first)])
        done.set()

    done = threading.Event()
    holder = threading.Thread(target=lambda: (first.acquire(), taken.acquire()))
    holder.start()
    holder.join()
    releaser = threading.Thread(target=lambda: (done.wait(), first.release()))
    releaser.start()
    with signalled_inside(look):
        assert first.acquire(timeout=30) is True
    releaser.join()
    assert seen == [False, True, os.getpid(), f"<ManagerLock held by {os.getpid()}>"]
    assert first.holder == os.getpid()
    for lock in (first, second, taken):
        lock.release()
        assert not lock.locked()


def test_signal_handler_that_uses_the_same_lock_at_each_step(manager: LockManager) -> None:
    """A semaphore of two places: one for the handler."""
    lock, count = make_lock(manager, Semaphore(2)), 1

    def handler() -> None:
        assert lock.acquire(timeout=30)
        lock.release()

    while interrupted_at(count, lambda: use(lock), handler):
        assert (lock.holders, lock.abandoned) == ((), False), f"at step {count}"
        count += 1
    assert count > 100
