"""Lock, RLock and Semaphore, outside any pool."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any

import pytest

import tasks
from helpers import signalled_inside
from poollock import (
    BaseLock,
    Lock,
    LockNotInstalledError,
    LockTimeoutError,
    RLock,
    Semaphore,
    current_lock,
    locked_pool,
)

ME = os.getpid()
KINDS: list[Callable[..., BaseLock]] = [Lock, RLock, Semaphore]


@pytest.fixture(params=KINDS)
def lock(request: pytest.FixtureRequest) -> BaseLock:
    made: BaseLock = request.param()
    return made


def in_thread(function: Callable[[], Any]) -> Any:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(function()))
    thread.start()
    thread.join()
    return got[0]


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


def test_semaphore_released_too_often_shows_who_has_a_place_that_is_signed_for() -> None:
    semaphore = Semaphore(1)
    semaphore.release()
    semaphore.acquire()
    semaphore.acquire()  # there is no word for this one
    semaphore.release()
    assert semaphore.holders == (ME,)
    semaphore.release()
    assert not semaphore.holders


@pytest.mark.skipif(sys.platform == "win32", reason="SIGALRM")
@pytest.mark.parametrize("kind", [Lock, RLock, partial(Semaphore, 3)], ids=["Lock", "RLock", "Semaphore"])
@pytest.mark.parametrize("how", ["raises", "uses it"])
def test_signals_in_the_middle(kind: Callable[[], Any], how: str) -> None:
    """A handler that raises, or takes the lock itself, comes at any moment: nothing is lost or left."""

    def handler(_signum: int, _frame: object) -> None:
        if how == "raises":
            if armed:
                raise ZeroDivisionError
        elif used.acquire(block=False):
            used.release()

    armed: list[bool] = []
    generator = random.Random(1)
    previous = signal.signal(signal.SIGALRM, handler)
    used = kind()
    try:
        for _ in range(500):
            armed.append(True)
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.000005, 0.0001))
                for _ in range(100):
                    with used:
                        pass
                armed.clear()
            except ZeroDivisionError:
                armed.clear()
            used._release_if_held()  # as at the end of a task: __exit__ itself may not have begun
            assert not used.locked()
            assert used.holders == ()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    if isinstance(used, Semaphore):
        assert used.get_value() == 3
        assert [used.acquire(block=False) for _ in range(4)] == [True, True, True, False]


def test_finalizer_in_the_middle_of_a_release() -> None:
    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            semaphore.acquire(block=False)

    semaphore, standard = Semaphore(200), gc.get_threshold()
    for _ in range(100):
        semaphore.acquire()
    try:
        for count in range(10, 100, 10):
            gc.disable()
            gc.collect()
            Finalized()
            gc.set_threshold(gc.get_count()[0] + count)
            gc.enable()
            semaphore.release()
    finally:
        gc.set_threshold(*standard)
        gc.enable()


def test_semaphore_that_grew_gives_the_place_of_a_dead_process_back() -> None:
    semaphore = Semaphore(1)
    semaphore.release()
    semaphore.release()
    semaphore.acquire()
    semaphore._recover(ME)
    assert semaphore.get_value() == 3


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


def test_signal_handler_anywhere_in_an_rlock() -> None:
    """Called at each step of taking it, twice, and of giving it back, the handler takes it too."""
    lock, calls = RLock(), 0

    def step(frame: FrameType, _event: str, _arg: Any) -> Any:
        nonlocal calls
        frame.f_trace_opcodes = True
        if frame.f_code.co_filename.endswith(("/rlock.py", "/lock.py")):
            assert lock.acquire(timeout=5)
            lock.release()
            calls += 1
        return step

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # 3.12 asks for these when tracing starts
    sys.settrace(step)
    try:
        with lock, lock:
            pass
    finally:
        sys.settrace(before)
    assert calls > 50
    assert not lock.locked()
    assert not lock.holder


def test_rlock_is_taken_again_by_its_thread_only() -> None:
    lock = RLock()
    with lock, lock:
        assert lock.acquire(block=False)
        lock.release()
        assert not in_thread(lambda: lock.acquire(block=False))
        assert lock.holder == ME
    assert not lock.locked()
    with pytest.raises(AssertionError, match="not held by this thread of process 'MainProcess'"):
        lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_rlock_of_the_parent_is_not_the_childs() -> None:
    lock = RLock(context="fork")
    with lock:
        process = multiprocessing.get_context("fork").Process(target=exit_with, args=(lock,))
        process.start()
        process.join()
    assert process.exitcode == 0  # the child's thread has the parent's ident, and did not get the lock


def exit_with(lock: BaseLock) -> None:
    os._exit(int(lock.acquire(block=False)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_rlock_in_a_child_forked_by_a_thread_that_had_it() -> None:
    lock = RLock(context="fork")
    go = multiprocessing.get_context("fork").Event()
    with lock, lock:
        process = multiprocessing.get_context("fork").Process(target=take_alone, args=(lock, go))
        process.start()
        pid = os.fork()
        if pid == 0:  # by a program that knows nothing of multiprocessing
            take_alone(lock, go)
    go.set()
    process.join()
    assert process.exitcode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not lock.locked()


def take_alone(lock: BaseLock, go: Any) -> None:
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


def test_semaphore_lets_n_in() -> None:
    semaphore = Semaphore(2)
    assert semaphore.get_value() == 2
    with semaphore, semaphore:
        assert list(semaphore.holders) == [ME, ME]
        assert not semaphore.acquire(block=False)
        assert repr(semaphore) == f"<Semaphore held by {ME}, {ME}, 2 at most>"
    assert semaphore.get_value() == 2
    assert semaphore.holder == 0


def test_semaphore_released_more_often_than_taken() -> None:
    semaphore = Semaphore(0)
    assert not semaphore.acquire(block=False)
    semaphore.release()
    semaphore.release()
    assert semaphore.acquire(block=False)
    assert semaphore.acquire(block=False)
    assert semaphore.get_value() == 0
    with pytest.raises(ValueError, match="value must not be negative: -1"):
        Semaphore(-1)
    with pytest.raises(TypeError, match="value must be an int, not '2'"):
        Semaphore("2")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_semaphore_larger_than_a_page() -> None:
    semaphore = Semaphore(5000)
    with semaphore:
        assert semaphore.holders == (ME,)


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


@pytest.mark.parametrize("context", ["fork", multiprocessing.get_context("fork")])
def test_fork_lock_does_not_go_to_a_spawned_process(context: Any) -> None:
    lock = Lock(context=context)
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


def test_semaphore_given_back_by_another_process(method: str) -> None:
    semaphore = Semaphore(1, context=method)
    with locked_pool(1, locks={"lock": semaphore}, context=method) as pool:
        semaphore.acquire()
        pool.apply(tasks.give_back_other, (semaphore,))
        assert semaphore.holders == ()
        assert semaphore.get_value() == 1
