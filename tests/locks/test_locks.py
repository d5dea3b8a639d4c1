"""Lock, RLock and Semaphore, outside any pool."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import pydoc
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import tasks
from helpers import METHODS, in_thread, signalled_inside
from poollock import (
    BaseLock,
    Lock,
    LockNotInstalledError,
    LockTimeoutError,
    RLock,
    Semaphore,
    current_lock,
)

ME = os.getpid()
KINDS: list[Callable[..., BaseLock]] = [Lock, RLock, Semaphore]


@pytest.fixture(params=KINDS)
def lock(request: pytest.FixtureRequest) -> BaseLock:
    made: BaseLock = request.param()
    return made


def test_acquire_and_release(lock: BaseLock) -> None:
    assert (lock.locked(), lock.holder, len(lock.holders)) == (False, 0, 0)
    assert lock.acquire() is True
    assert (lock.locked(), lock.holder, list(lock.holders)) == (True, ME, [ME])
    assert in_thread(lambda: lock.acquire(block=False)) is False
    assert in_thread(lambda: lock.acquire(timeout=0.01)) is False
    assert in_thread(lambda: lock.acquire(timeout=-1)) is False
    lock.release()
    assert (lock.locked(), lock.holder) == (False, 0)


def test_with_says_who_holds_it(lock: BaseLock) -> None:
    with lock as taken:
        assert taken is True
        assert lock.holder == ME
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert lock.holder == 0
    assert not lock.locked()


@pytest.mark.parametrize("kind", [Lock, lambda: Semaphore(1)])
def test_lock_released_by_another_thread(kind: Callable[[], BaseLock]) -> None:
    lock = kind()
    lock.acquire()
    in_thread(lock.release)
    assert lock.acquire(block=False)
    lock.release()


def test_lock_released_too_often() -> None:
    with pytest.raises(ValueError, match="released too many times"):
        Lock().release()


def test_many_locks_do_not_share_their_words() -> None:
    locks = [Lock() for _ in range(200)]
    for lock in locks[::2]:
        lock.acquire()
    assert [lock.holder for lock in locks] == [ME, 0] * 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_locks_made_in_a_forked_child_have_words_of_their_own() -> None:
    Lock()  # whatever memory is at hand is now at hand for both
    receiver, sender = multiprocessing.Pipe(duplex=False)
    go = multiprocessing.get_context("fork").Event()
    process = multiprocessing.get_context("fork").Process(target=hold_own, args=(sender, go))
    process.start()
    assert receiver.recv() == process.pid
    assert [lock.holder for lock in [Lock() for _ in range(20)]] == [0] * 20
    go.set()
    process.join()


def hold_own(sender: Any, go: Any) -> None:
    locks = [Lock(context="fork") for _ in range(20)]
    for lock in locks:
        lock.acquire()
    sender.send(locks[0].holder)
    go.wait()


def test_hold(lock: BaseLock) -> None:
    with lock.hold(1):
        assert lock.holder == ME
        error = in_thread(lambda: timeout_of(lock))
    assert not lock.locked()
    assert (error.holders, error.timeout) == ((ME,), 0.01)
    assert f"held by process {ME}" in str(error)
    assert str(error).startswith(f"process 'MainProcess' (pid {ME}) waited 0.01 s for an unnamed")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.holders, again.lock) == (str(error), error.holders, error.lock)


def timeout_of(lock: BaseLock) -> LockTimeoutError:
    with pytest.raises(LockTimeoutError) as caught, lock.hold(0.01):
        pass
    return caught.value


def test_contextlib_can_use_it(lock: BaseLock) -> None:
    with ExitStack() as stack:
        assert stack.enter_context(lock) is True
        assert lock.holder == ME
    assert not lock.locked()
    lock.acquire()
    with ExitStack() as stack:
        stack.push(lock)
    assert not lock.locked()


def test_repr(lock: BaseLock) -> None:
    kind = type(lock).__name__
    assert repr(lock).startswith(f"<{kind} free")
    with lock:
        assert repr(lock).startswith(f"<{kind} held by {ME}")


def test_help_says_what_a_method_does(lock: BaseLock) -> None:
    for method in (type(lock).__enter__, type(lock).acquire):
        assert "Take the lock" in pydoc.render_doc(method)


def test_abandoned(lock: BaseLock) -> None:
    assert lock.abandoned is False
    lock.mark_consistent()
    assert lock.abandoned is False


def test_copy_and_pickle_are_the_lock_itself(lock: BaseLock) -> None:
    assert pickle.loads(pickle.dumps(lock)) is lock
    assert copy.copy(lock) is lock
    assert copy.deepcopy([lock])[0] is lock


def test_lock_that_never_reached_this_process() -> None:
    lock = Lock()
    data = pickle.dumps(lock)
    del lock
    absent = pickle.loads(data)
    for use in (
        lambda: absent.acquire(),
        lambda: absent.release(),
        lambda: absent.holder,
        lambda: absent.install(),
        absent.__enter__,
    ):
        with pytest.raises(LockNotInstalledError, match=f"pid {ME}.*make the lock before the pool"):
            use()
    assert repr(absent) == "<uninstalled lock, unnamed>"
    assert repr(pickle.loads(pickle.dumps(absent))) == repr(absent)


def test_current_lock_where_no_pool_put_one() -> None:
    with pytest.raises(LockNotInstalledError, match=r"'MainProcess'.*use pool\.lock"):
        current_lock()


@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
@pytest.mark.parametrize("resolve", [str, multiprocessing.get_context])
def test_fork_lock_does_not_go_to_a_spawned_process(resolve: Callable[[str], Any]) -> None:
    lock = Lock(context=resolve("fork"))
    process = multiprocessing.get_context("spawn").Process(target=tasks.try_lock, args=(lock,))
    with pytest.raises(RuntimeError, match=r"start method 'fork'.*make it with context='spawn'"):
        process.start()


def test_lock_goes_to_a_process_as_it_starts(method: str) -> None:
    lock = Lock(context=method)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=send_holder, args=(lock, sender))
    process.start()
    assert receiver.recv() == process.pid
    process.join()
    assert not lock.locked()


def send_holder(lock: BaseLock, sender: Any) -> None:
    with lock:
        sender.send(lock.holder)


@pytest.mark.parametrize(("context", "error"), [("thread", ValueError), (3, TypeError)])
def test_wrong_context(context: Any, error: type[Exception]) -> None:
    for kind in KINDS:
        with pytest.raises(error):
            kind(context=context)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal does not interrupt a wait there")
def test_wait_that_a_signal_interrupts_leaves_the_lock_alone(lock: BaseLock) -> None:
    in_thread(lock.acquire)

    def give_up(*_: object) -> None:
        raise InterruptedError

    with signalled_inside(give_up), pytest.raises(InterruptedError):
        lock.acquire()
    assert lock.holders == (ME,)
