"""The functions that the workers of a cluster run, and how a test and they wait for each other: by files."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from poollock import BaseLock, current_lock


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.002)


class Stage:
    """A directory by which a task says that it has begun, and is told to go on.

    Args:
        directory: The directory.
        name: What the files of the task are called.
    """

    def __init__(self, directory: Path, name: object = "task") -> None:
        self.begun = directory / f"{name}.begun"  # a line for each time that it began: a pid
        self.go = directory / f"{name}.go"
        self.attempts = directory / f"{name}.attempts"

    def enter(self) -> int:
        """Be the task: say that it has begun, and wait until it may go on; return its pid."""
        with self.begun.open("a") as file:
            file.write(f"{os.getpid()}\n")
        _wait_for(self.go)
        return os.getpid()

    def pids(self) -> list[int]:
        """Wait until the task has begun, and return where, each time."""
        while not (self.begun.exists() and (text := self.begun.read_text()).endswith("\n")):
            time.sleep(0.002)
        return list(map(int, text.split()))

    def attempt(self) -> None:
        """Be the task: say that it runs."""
        with self.attempts.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def let_go(self) -> None:
        self.go.touch()


def square(x: int) -> int:
    return x * x


def stay(stage: Stage) -> int:
    return stage.enter()


def hold(lock: BaseLock, stage: Stage) -> int:
    stage.attempt()
    with lock:
        return stage.enter()


def begin_and_take(lock: BaseLock, stage: Stage) -> int:
    """Say that it has begun, then wait for the lock."""
    stage.go.touch()
    stage.enter()
    with lock:
        return os.getpid()


def take(lock: BaseLock) -> tuple[int, bool]:
    with lock:
        return os.getpid(), lock.abandoned


def count(lock: BaseLock, path: Path, x: int) -> int:
    with lock:
        path.write_text(str(int(path.read_text()) + 1))
    return x


def count_with_current_lock(path: Path, x: int) -> int:
    with current_lock():
        path.write_text(str(int(path.read_text()) + 1))
    return x


def holder_seen(lock: BaseLock) -> Any:
    with lock:
        return lock.holder


def reenter(lock: BaseLock, depth: int) -> int:
    if depth == 0:
        return len(lock.holders)
    with lock:
        return reenter(lock, depth - 1)


def inside_together(api: BaseLock, stage: Stage, most: Stage) -> None:
    with api:
        stage.enter()


def two_locks(first: BaseLock, second: BaseLock, mine: Stage, other: Stage) -> str:
    """Take the first lock, wait until the other task has its first one, then take the second."""
    with first:
        mine.begun.touch()
        _wait_for(other.begun)
        with second:
            return "both"


def take_twice(lock: BaseLock) -> None:
    with lock, lock:
        pass


def leave_held(lock: BaseLock) -> None:
    lock.acquire()


def wait_with_limit(lock: BaseLock, seconds: float) -> None:
    with lock.hold(seconds):
        pass


def fail(x: int) -> int:
    raise ValueError(x)


def exit_task() -> None:
    raise SystemExit(3)


def large(size: int) -> bytes:
    return bytes(size)


class Unsendable:
    """It can be made in a worker, and not sent from there."""

    def __reduce__(self) -> Any:
        raise TypeError("stays here")


def unsendable() -> Unsendable:
    return Unsendable()


def take_item(lock: BaseLock, x: int) -> int:
    with lock:
        return x


class Fatal:
    """It ends the process in which it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


def hold_and_fork(lock: BaseLock, path: Path) -> None:
    """Hold the lock, and have another process."""
    with lock:
        pid = os.fork()
        if not pid:
            while True:
                time.sleep(1)
        part = path.with_suffix(".part")
        part.write_text(str(pid))
        part.rename(path)
        while True:
            time.sleep(1)


def log_information() -> None:
    logging.getLogger(__name__).setLevel(logging.INFO)


def log(x: int) -> None:
    logging.getLogger(__name__).info("item %d", x)
