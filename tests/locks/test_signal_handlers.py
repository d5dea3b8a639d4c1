"""Signal handlers in the middle of taking a lock and of giving it back: they raise, or use it themselves.

`tests/backend/test_interrupts.py` raises between any two instructions; here it is where Python runs handlers.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from random import Random
from types import FrameType
from typing import Any

import pytest

from helpers import Interrupt, handled_at, interrupted_at, raise_interrupt, without_collection
from poollock import BaseLock, Lock, RLock, Semaphore

Make = Callable[[], BaseLock]
KINDS: list[Make] = [Lock, RLock, partial(Semaphore, 3)]


def free(lock: BaseLock) -> int:
    """How many more can take it."""
    return lock.get_value() if isinstance(lock, Semaphore) else 1 - lock.locked()


def enter(lock: BaseLock) -> None:
    type(lock).__enter__(lock)


def acquire(lock: BaseLock) -> None:
    lock.acquire()


def acquire_in_time(lock: BaseLock) -> None:
    lock.acquire(timeout=20)


@pytest.fixture(params=KINDS, ids=["Lock", "RLock", "Semaphore"])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


@pytest.mark.parametrize("used", [False, True], ids=["first time", "again"])
@pytest.mark.parametrize(
    "take",
    [enter, acquire, acquire_in_time],
    ids=["with", "acquire", "timeout"],
)
def test_acquire_that_raises_takes_nothing(
    make: Make,
    take: Callable[[BaseLock], object],
    used: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    count, left = 1, 0
    while left == 0:
        lock = make()
        if used:
            lock.acquire()
            lock.release()
        most = free(lock)
        raised: list[Interrupt] = []

        def attempt(lock: BaseLock = lock, raised: list[Interrupt] = raised) -> None:
            try:
                take(lock)
            except Interrupt as error:
                raised.append(error)

        handled_at(count, attempt)
        left = most - free(lock)
        assert left == (not raised)
        assert len(lock.holders) == left
        assert not lock._is_unrecorded()
        count += 1
    assert count > 3


def test_release_that_raises_has_released_or_not(make: Make) -> None:
    count, seen = 1, set[int]()
    while True:
        lock = make()
        most = free(lock)
        lock.acquire()
        if not handled_at(count, lock.release):
            break
        left = most - free(lock)
        assert len(lock.holders) == left
        assert not lock._is_unrecorded()
        seen.add(left)
        count += 1
    assert seen <= {0, 1}
    assert 0 in seen


def test_acquire_inside_an_acquire_that_raises(make: Make) -> None:
    """The handler takes the lock and gives it back, and then it raises."""

    def handler() -> None:
        if lock.acquire(block=False):
            lock.release()
        raise Interrupt

    count = 1
    while True:
        lock = make()
        most = free(lock)
        raised = True

        def attempt(lock: BaseLock = lock) -> None:
            nonlocal raised
            lock.acquire()
            raised = False

        if not handled_at(count, attempt, handler):
            break
        assert most - free(lock) == (not raised) == len(lock.holders)
        count += 1


@pytest.mark.parametrize("again", [1, 2])
def test_handler_that_takes_an_rlock(again: int) -> None:
    """At each instruction of taking it and of giving it back."""
    lock, count = RLock(), 1

    def handler() -> None:
        for _ in range(again):
            assert lock.acquire(timeout=5)
        for _ in range(again):
            lock.release()

    def use() -> None:
        with lock, lock:
            assert lock.acquire()
            lock.release()

    while interrupted_at(count, use, handler):
        assert not lock.locked()
        assert not lock.holder
        assert not lock._is_unrecorded()
        count += 1
    assert count > 50


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("handled", [Semaphore.acquire, Semaphore.release])
@pytest.mark.parametrize(
    ("own", "call"),
    [(1, Semaphore.acquire), (2, Semaphore.release), (0, Semaphore.release)],
    ids=["acquire", "release", "release for others"],
)
def test_handler_that_keeps_a_place_or_gives_one_back(
    own: int,
    call: Callable[[Semaphore], object],
    handled: Callable[[Semaphore], object],
    raises: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    taken: dict[Any, int] = {Semaphore.acquire: 1, Semaphore.release: -1}

    def handler() -> None:
        handled(semaphore)
        if raises:
            raise Interrupt

    count, seen = 1, list[int]()
    while True:
        semaphore = Semaphore(5)
        for _ in range(own):
            semaphore.acquire()
        if not handled_at(count, partial(call, semaphore), handler):
            break
        left = 5 - semaphore.get_value()
        if own:
            assert len(semaphore.holders) == left
        assert not semaphore._is_unrecorded()
        seen.append(left)
        count += 1
    undone = own + taken[handled]
    done = undone + taken[call]
    assert {*seen} <= ({done, undone} if raises else {done})
    if raises and call is Semaphore.acquire:
        assert {*seen} == {undone}  # it had not returned


@contextmanager
def alarms(handler: Callable[[int, FrameType | None], None]) -> Generator[None, None, None]:
    """Have SIGALRM call *handler*; then give it back to pytest-timeout, with the time that was left."""
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        with without_collection():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *left)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGALRM")
@pytest.mark.parametrize("how", ["raises", "uses it"])
def test_signals_in_the_middle(make: Callable[[], Any], how: str) -> None:
    """A handler that raises, or takes the lock itself, comes at any moment: nothing is lost or left."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        if how == "raises":
            if armed:
                armed.clear()  # here: the next one may come before the caller could
                raise_interrupt()
        elif used.acquire(block=False):
            used.release()

    armed: list[bool] = []
    generator = Random(1)
    used = make()
    with alarms(handler):
        for _ in range(500):
            with suppress(Interrupt):
                armed.append(True)  # a timer of the last round may be over right after that
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.000005, 0.0001))
                for _ in range(100):
                    with used:
                        pass
                armed.clear()
            used._release_if_held()  # as at the end of a task: __exit__ itself may not have begun
            assert not used.locked()
            assert used.holders == ()
    if isinstance(used, Semaphore):
        assert used.get_value() == 3
        assert [used.acquire(block=False) for _ in range(4)] == [True, True, True, False]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGALRM")
def test_handlers_that_come_at_any_time_while_other_threads_use_it(make: Make) -> None:
    """SIGALRM raises in the main thread, hundreds of times; whatever it left held is given back then."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        armed.clear()
        raise_interrupt()

    def use_often() -> None:
        while not over:
            with lock:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    # A function: 3.13 leaves the jump at the end of such a loop out of the ``with`` around it.
    def use_until_the_alarm() -> None:
        while armed:  # it ends, even if what the handler raised got lost
            with lock:
                pass
            lock.acquire()
            lock.release()

    random, lock = Random(1), make()
    places = free(lock)
    inside: list[None] = []
    most: list[int] = []
    armed: list[bool] = []
    over: list[bool] = []
    threads = [threading.Thread(target=use_often) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for thread in threads:
        thread.start()
    try:
        with alarms(handler):
            for _ in range(300):
                with suppress(Interrupt):
                    armed.append(True)
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-3))
                    use_until_the_alarm()
                lock._release_if_held()  # as a worker does when the task has ended
    finally:
        sys.setswitchinterval(interval)
        over.append(True)
        for thread in threads:
            thread.join()
    assert max(most) <= places
    assert (free(lock), lock.holders, lock._is_unrecorded()) == (places, (), False)
