"""Semaphore: its places, who has them, and processes that come and go."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from helpers import in_child, in_thread
from poollock import Semaphore, WorkerDiedError, locked_pool
from poollock._locks import holder_table
from poollock._locks.shared_semaphore import SharedSemaphore

ME = os.getpid()

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def forked(function: Callable[[], object]) -> int:
    """Run *function* in a forked process that then dies; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_it_lets_n_in() -> None:
    semaphore = Semaphore(2)
    assert semaphore.get_value() == 2
    with semaphore, semaphore:
        assert list(semaphore.holders) == [ME, ME]
        assert not semaphore.acquire(block=False)
        assert repr(semaphore) == f"<Semaphore held by {ME}, {ME}, 2 at most>"
    assert semaphore.get_value() == 2
    assert semaphore.holder == 0


def test_place_that_is_passed_on_while_the_holders_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([{1: 1, 2: 1, 3: 1}, {2: 1, 3: 1}])

    def holders(_: object) -> dict[int, int]:
        return next(readings)

    monkeypatch.setattr(holder_table.HolderTable, "holders", holders)
    assert Semaphore(2).holders == (2, 3)


def test_more_places_than_a_page_has_words() -> None:
    semaphore = Semaphore(5000)
    with semaphore:
        assert semaphore.holders == (ME,)
    assert semaphore.get_value() == 5000


def test_it_can_be_released_more_often_than_taken() -> None:
    semaphore = Semaphore(0)
    assert not semaphore.acquire(block=False)
    semaphore.release()
    semaphore.release()
    assert semaphore.acquire(block=False)
    assert semaphore.acquire(block=False)
    assert semaphore.get_value() == 0
    assert semaphore.holders == (ME, ME)
    with pytest.raises(ValueError, match="value must not be negative: -1"):
        Semaphore(-1)
    with pytest.raises(TypeError, match="value must be an int, not '2'"):
        Semaphore("2")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@needs_fork
def test_places_of_a_dead_process_are_given_back() -> None:
    semaphore = Semaphore(3, context="fork")
    semaphore.acquire()
    pid = forked(lambda: semaphore.acquire() and semaphore.acquire())
    assert sorted(semaphore.holders) == sorted([ME, pid, pid])
    assert semaphore._recover(pid)
    assert not semaphore._recover(pid)
    assert semaphore.holders == (ME,)
    assert (semaphore.get_value(), semaphore.abandoned) == (2, True)
    semaphore.release()
    assert not semaphore._is_unrecorded()


@needs_fork
def test_places_that_were_added_are_given_back_as_well() -> None:
    semaphore = Semaphore(0, context="fork")
    for _ in range(3):
        semaphore.release()
    pid = forked(lambda: semaphore.acquire() and semaphore.acquire())
    assert semaphore.holders == (pid, pid)
    assert semaphore._recover(pid)
    assert semaphore.get_value() == 3
    assert not semaphore._is_unrecorded()


@needs_fork
def test_place_that_nobody_has_recorded() -> None:
    """A process died in the moment between taking it and saying so."""
    semaphore = Semaphore(2, context="fork")
    with semaphore:
        forked(lambda: semaphore._semlock.acquire())
        assert semaphore._is_unrecorded()
        semaphore._force_release()
        assert not semaphore._is_unrecorded()
        assert (semaphore.get_value(), semaphore.holders, semaphore.abandoned) == (1, (ME,), True)


def test_place_given_back_by_another_process(method: str) -> None:
    semaphore = Semaphore(1, context=method)
    with locked_pool(1, locks={"lock": semaphore}, context=method) as pool:
        semaphore.acquire()
        pool.apply(tasks.give_back_other, (semaphore,))
        assert semaphore.holders == ()
        assert semaphore.get_value() == 1


@needs_fork
def test_what_another_process_has_released_is_not_given_back_again() -> None:
    """Whether who took it dies, or its task ends."""
    semaphore = Semaphore(3, context="fork")
    semaphore.acquire()
    pid = forked(semaphore.release)
    assert (semaphore.get_value(), semaphore.holders) == (3, ())
    assert not semaphore._release_if_held()
    assert not semaphore._recover(pid)
    for _ in range(3):
        semaphore.acquire()
    assert list(semaphore.holders) == [ME] * 3
    assert semaphore._release_if_held()
    pid = forked(lambda: (semaphore.acquire(), semaphore.acquire(), forked(semaphore.release)))
    assert semaphore.holders == (pid,)
    assert semaphore._recover(pid)
    assert semaphore.get_value() == 3
    assert not semaphore._is_unrecorded()


@needs_fork
def test_processes_that_release_what_their_parent_took() -> None:
    """A parent that limits how many children it has at a time."""
    semaphore = Semaphore(2, context="fork")
    for _ in range(100):
        assert semaphore.acquire(timeout=20)
        forked(semaphore.release)
    assert semaphore.get_value() == 2
    assert semaphore.holders == ()
    with semaphore:
        pid = forked(semaphore.acquire)
        assert sorted(semaphore.holders) == sorted([ME, pid])
        assert semaphore._recover(pid)
    assert semaphore.get_value() == 2
    assert not semaphore._is_unrecorded()


@needs_fork
def test_processes_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than can use it at a time."""
    monkeypatch.setattr(holder_table, "_ROWS", 5)
    semaphore = Semaphore(3, context="fork")
    with semaphore:
        for number in range(50):
            pid = forked(
                semaphore.acquire if number % 7 == 0 else lambda: [semaphore.acquire(), semaphore.release()]
            )
            assert semaphore._recover(pid) == (number % 7 == 0)
            assert semaphore.holders == (ME,)
            assert semaphore.get_value() == 2
    assert not semaphore._is_unrecorded()


@needs_fork
def test_more_processes_than_can_use_it_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_table, "_ROWS", 1)
    semaphore = Semaphore(3, context="fork")

    def fail() -> None:
        with pytest.raises(RuntimeError, match="cannot be used by more than 1 processes at a time"):
            semaphore.acquire()

    with semaphore:
        assert in_child(fail) == 0
        assert semaphore.get_value() == 2


@needs_fork
def test_a_forked_process_does_not_have_what_its_parent_has() -> None:
    semaphore = Semaphore(3, context="fork")

    def check() -> None:
        assert semaphore.holders == (ME,)
        assert not semaphore._release_if_held()
        with semaphore:
            assert sorted(semaphore.holders) == sorted([ME, os.getpid()])
        assert semaphore.holders == (ME,)

    with semaphore:
        assert in_child(check) == 0
        assert in_thread(lambda: in_child(check)) == 0  # whose main thread was another one
        assert semaphore.holders == (ME,)
    assert semaphore.get_value() == 3


def test_threads_of_a_process_share_its_places() -> None:
    semaphore, inside = Semaphore(2), list[None]()
    most: list[int] = []

    def use() -> None:
        for _ in range(300):
            with semaphore:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        use()
    finally:
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert max(most) <= 2
    assert (semaphore.get_value(), semaphore.holders) == (2, ())
    assert not semaphore._is_unrecorded()


@pytest.mark.parametrize("by_thread", [True, False])
def test_threads_release_what_others_took(by_thread: bool) -> None:  # noqa: FBT001 - a parameter of the test
    semaphore = Semaphore(2)
    run: Callable[[Callable[[], Any]], Any] = in_thread if by_thread else lambda function: function()
    other: Callable[[Callable[[], Any]], Any] = in_thread if not by_thread else lambda function: function()
    for _ in range(3):
        run(semaphore.acquire)
        assert list(semaphore.holders) == [ME]
        other(semaphore.release)
        assert list(semaphore.holders) == []
    assert semaphore.get_value() == 2
    assert not semaphore._release_if_held()


def test_at_the_end_of_a_task_a_thread_that_goes_on_keeps_its_place() -> None:
    semaphore, taken, go = Semaphore(3), threading.Event(), threading.Event()

    def hold() -> None:
        with semaphore:
            taken.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    assert not semaphore._release_if_held()
    semaphore.acquire()
    assert semaphore._release_if_held()
    assert semaphore.holders == (ME,)
    go.set()
    thread.join()
    assert semaphore.get_value() == 3


@needs_fork
def test_at_the_end_of_a_task_a_thread_that_has_ended_gives_its_place_back() -> None:
    semaphore = Semaphore(3)

    def run_task() -> None:
        in_thread(semaphore.acquire)
        assert semaphore._release_if_held()
        assert semaphore.get_value() == 3

    assert in_child(run_task) == 0  # where no other thread is alive


@needs_fork
@pytest.mark.parametrize("stores", range(1, 5))
def test_process_killed_while_it_puts_its_places_in_order(stores: int) -> None:
    """They stay counted once: the one that another process has released, and the one of a thread."""
    semaphore = Semaphore(4, context="fork")

    class Killing:
        """Words that end the process at a store."""

        def __init__(self, words: Any) -> None:
            self.words, self.left = words, stores

        def __getitem__(self, index: Any) -> Any:
            return self.words[index]

        def __setitem__(self, index: Any, value: Any) -> None:
            self.words[index] = value
            self.left -= 1
            if not self.left:
                os._exit(0)

    def die() -> None:
        in_thread(semaphore.acquire)
        semaphore.acquire()
        forked(semaphore.release)
        with suppress(AttributeError):
            semaphore._table._words = Killing(semaphore._table._words)  # type: ignore[assignment] # it stands in for the words
        semaphore._table.settle(threads=False)

    pid = forked(die)
    assert semaphore.get_value() == 3
    assert not semaphore._is_unrecorded()
    assert semaphore._recover(pid)
    assert semaphore.get_value() == 4
    assert not semaphore._is_unrecorded()


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
        gc.collect()  # or the last one would be finalized in the middle of another test, or in its worker
    assert len(semaphore.holders) == 200 - semaphore.get_value()


@pytest.fixture
def like_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not tell the value of a semaphore; what asks whether it is zero takes it."""

    def value(_: SharedSemaphore) -> int:
        raise NotImplementedError

    def is_zero(semaphore: SharedSemaphore) -> bool:
        if not semaphore.plain.acquire(False):  # noqa: FBT003 - it takes no keyword
            return True
        semaphore.plain.release()
        return False

    monkeypatch.setattr(SharedSemaphore, "value", value)
    monkeypatch.setattr(SharedSemaphore, "is_zero", is_zero)
    monkeypatch.setattr("poollock._locks.semaphore.sys", SimpleNamespace(platform="darwin"))


@needs_fork
@pytest.mark.usefixtures("like_macos")
def test_semaphore_whose_value_the_system_does_not_tell() -> None:
    semaphore = Semaphore(2, context="fork")
    with semaphore:
        assert semaphore.get_value() == 1
        assert not semaphore.locked()
        with semaphore:
            assert semaphore.get_value() == 0
            assert semaphore.locked()
    with locked_pool(2, locks={"semaphore": semaphore}, context="fork") as pool:
        for _ in range(3):
            with pytest.raises(WorkerDiedError) as caught:
                pool.apply(tasks.die_with, (pool.lock,))
            assert caught.value.locks_held == ("semaphore",)
        assert semaphore.get_value() == 2
        assert semaphore.abandoned
