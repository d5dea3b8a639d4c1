"""Tasks that wait for each other's locks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from helpers import wait_until
from poollock import BaseLock, DeadlockError, current_lock


def take_in_turn(names: Iterable[str], directory: str, others: Iterable[str]) -> str:
    """Take locks; after the first, say so, and wait until the *others* have been said."""
    first, *rest = names
    with current_lock(first), ExitStack() as stack:
        (Path(directory) / first).touch()
        wait_until(lambda: all((Path(directory) / other).exists() for other in others))
        for name in rest:
            stack.enter_context(current_lock(name))
        return first


def take_and_catch(names: Iterable[str], directory: str, others: Iterable[str]) -> list[int]:
    """Do the same; return the pids in the error, and go on."""
    try:
        take_in_turn(names, directory, others)
    except DeadlockError as error:
        return [wait.pid for wait in error.waits]
    return []


def take_twice(lock: BaseLock) -> None:
    with lock, lock:
        pass


def take_two_of_three(number: int) -> int:
    """Take two locks, in an order that makes rings."""
    names = [("a", "b"), ("b", "c"), ("c", "a")][number % 3]
    with current_lock(names[0]):
        time.sleep(0.2)  # the work that makes it likely that others come between
        with current_lock(names[1]):
            return number


def fill_then_take(semaphore: str, last: str, path: str, other: str) -> None:
    """Take a place of a semaphore, say so, wait for *other*, then take the lock."""
    with current_lock(semaphore):
        Path(path).touch()
        wait_until(Path(other).exists)
        with current_lock(last):
            pass


def take_then_enter(first: str, semaphore: str, path: str, others: Iterable[str]) -> None:
    """Take the lock, say so, wait until the semaphore is full, then take a place of it."""
    with current_lock(first):
        Path(path).touch()
        wait_until(lambda: all(Path(other).exists() for other in others))
        with current_lock(semaphore):
            pass


def hold_until(name: str, held: str, path: str) -> int:
    """Hold a lock until there is a file."""
    with current_lock(name):
        Path(held).touch()
        wait_until(Path(path).exists)
    return os.getpid()


def just_take(name: str) -> str:
    with current_lock(name):
        return name


def wait_with_limit(names: Iterable[str], directory: str, others: Iterable[str], timeout: float) -> bool:
    """Hold the first lock, and wait for the second with a time limit."""
    first, second = names
    with current_lock(first):
        (Path(directory) / first).touch()
        wait_until(lambda: all((Path(directory) / other).exists() for other in others))
        taken = current_lock(second).acquire(timeout=timeout)
        if taken:
            current_lock(second).release()
        return taken
