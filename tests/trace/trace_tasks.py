"""The tasks of the tests of traces."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from time import perf_counter
from typing import Any

from poollock import BaseLock, Lock, Semaphore

MORE_THAN_FIT = 10_000  # holds, with two records each: the pool has to read between


def use(lock: BaseLock, number: int) -> int:
    with lock:
        return number


def fail(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


def kill_at(lock: BaseLock, number: int, fatal: int) -> int:
    with lock:
        if number == fatal:
            os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    return number


def wait_and_sleep(lock: BaseLock, seconds: float) -> tuple[float, float]:
    """Return for how long this waited for the lock, and for how long it had it."""
    begin = perf_counter()
    with lock:
        taken = perf_counter()
        time.sleep(seconds)
        return taken - begin, perf_counter() - taken


def take_many(lock: BaseLock) -> None:
    for _ in range(MORE_THAN_FIT):
        with lock:
            pass


def overlap(a: BaseLock, b: BaseLock) -> None:
    a.acquire()
    b.acquire()
    a.release()
    b.release()


def take_again(lock: BaseLock) -> None:
    with lock, lock:
        assert lock.acquire()
        lock.release()


def try_in_vain(lock: BaseLock) -> list[bool]:
    return [lock.acquire(block=False), lock.acquire(timeout=0.01), lock.acquire(timeout=0)]


def in_threads(lock: BaseLock) -> None:
    threads = [threading.Thread(target=use, args=(lock, number)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def use_in_fork(lock: BaseLock) -> int:
    pid = os.fork()
    if not pid:
        for _ in range(5):
            with lock:
                pass
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    with lock:
        return status


def use_own_locks() -> None:
    for lock in (Lock(), Semaphore(2)):
        with lock:
            pass


def keep(lock: BaseLock) -> None:
    lock.acquire()


def trace_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith("poollock._trace")]


def take_both(first: str, a: BaseLock, b: BaseLock, folder: Path) -> None:
    """Take both locks, *first* first, once another task has the other one."""
    locks: dict[str, Any] = {"a": a, "b": b}
    other = "b" if first == "a" else "a"
    with locks[first]:
        (folder / first).touch()
        while not (folder / other).exists():
            time.sleep(0.005)
        with locks[other]:
            pass


def kill_at_3(lock: BaseLock, number: int) -> int:
    return kill_at(lock, number, 3)


class Odd:
    """A callable whose name is none."""

    def __getattr__(self, name: str) -> list[str]:
        if name != "__qualname__":
            raise AttributeError(name)
        return ["a", "list"]

    def __call__(self) -> int:
        return 1


def take_often(lock: BaseLock, times: int) -> None:
    for _ in range(times):
        assert lock.acquire(timeout=50)  # without a limit the wait for its own lock might be told


def give_back_often(lock: BaseLock, times: int) -> None:
    for _ in range(times):
        lock.release()
