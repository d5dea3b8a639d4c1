"""The functions that workers run, in a module that a spawned worker can import."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from poollock import BaseLock, LockedLogWriter, current_lock
from poollock._backend.files import open_appending
from poollock._backend.flock import LOCK_EX, LOCK_UN, flock
from poollock._log import log_file, opening

initialized: list[str] = []


def add_one(lock: BaseLock, path: str) -> int:
    """Count in a file: an increment is lost if another process does so at the same time."""
    with lock:
        return _add_one(path)


def add_one_after(path: str, lock: BaseLock) -> int:
    with lock:
        return _add_one(path)


def add_one_keyword(path: str, *, lock: BaseLock) -> int:
    with lock:
        return _add_one(path)


def add_one_default(path: str, lock: BaseLock | None = None) -> int:
    assert lock is not None
    with lock:
        return _add_one(path)


def add_one_current(path: str) -> int:
    with current_lock():
        return _add_one(path)


def _add_one(path: str) -> int:
    file = Path(path)
    count = int(file.read_text()) + 1
    time.sleep(0)  # let another process in, if the lock does
    file.write_text(str(count))
    return count


class Counter:
    """Its methods are tasks."""

    def __init__(self, path: str) -> None:
        self.path = path

    def bound(self, lock: BaseLock, _: int) -> int:
        return add_one(lock, self.path)

    @staticmethod
    def static(path: str, lock: BaseLock) -> int:
        return add_one(lock, path)

    @classmethod
    def klass(cls, lock: BaseLock, path: str) -> int:
        return add_one(lock, path)

    def __call__(self, _: int, *, lock: BaseLock) -> int:
        return add_one(lock, self.path)

    def __private(self, x: int) -> int:
        return x

    def private(self) -> Any:
        return self.__private


def with_two(log: BaseLock, api: BaseLock, x: int) -> tuple[str | None, str | None, int]:
    with log, api:
        return log.name, api.name, x


def holder_seen(lock: BaseLock, _: int) -> tuple[int, int, int]:
    with lock:
        return os.getpid(), lock.holder, len(lock.holders)


def reenter(lock: BaseLock, depth: int) -> int:
    """Take the lock *depth* times, one inside the other."""
    if depth == 0:
        return lock.holder
    with lock:
        return reenter(lock, depth - 1)


def mark(api: BaseLock, _: int, path: str) -> None:
    """Leave a mark at the start and the end of the time inside; two must be inside together once."""
    with api:
        append(path, "+")
        while Path(path).read_text().count("+") < 2:
            time.sleep(0.001)
        append(path, "-")


def append(path: str, text: str) -> None:
    """Append to a file that other processes append to: Wine finds its end and then writes, so lock it."""
    fd = open_appending(path, create=True, readable=False)
    flock(fd, LOCK_EX)
    os.write(fd, text.encode())
    flock(fd, LOCK_UN)
    os.close(fd)


def remember(word: str) -> None:
    """Be an initializer: the lock must be there already."""
    with current_lock():
        initialized.append(word)


def remembered(_: int) -> list[str]:
    return initialized


def add(x: int, y: int = 0) -> int:
    return x + y


def identity(x: Any) -> Any:
    return x


def fail(lock: BaseLock, x: int) -> None:
    with lock:
        raise ValueError(x)


def lock_or_number(lock: object) -> object:
    return lock


def give_back(lock: BaseLock) -> BaseLock:
    return lock


def try_lock(lock: BaseLock) -> bool:
    if lock.acquire(block=False):
        lock.release()
        return True
    return False


def current_name(name: str) -> str | None:
    return current_lock(name).name


def hold_until(lock: BaseLock, path: str) -> None:
    """Hold the lock from the time *path* says "held" until it is gone."""
    with lock:
        Path(path).write_text("held")
        while Path(path).exists():
            time.sleep(0.002)


def hold_and_die(lock: BaseLock) -> None:
    lock.acquire()
    os._exit(3)


def wait_for_rotations() -> None:
    """Have this worker wait for another one that rotates a log, however slow that is."""
    log_file._PATIENCE = opening._PATIENCE = 60


def write_records(log: LockedLogWriter, writer: int, count: int) -> None:
    for number in range(count):
        text = f"{writer}:{number}:" + "x" * (number * 37 % 300)
        if number % 3 == 0:
            log.write(f"{text}:{len(text)}\n")
        elif number % 3 == 1:
            print(text, len(text), sep=":", file=log)
        else:
            log.writelines([text, ":", f"{len(text)}", "\n"])


def write_from_threads(log: LockedLogWriter, count: int) -> None:
    threads = [threading.Thread(target=write_records, args=(log, number, count)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def large_result_after(seconds: float) -> bytes:
    time.sleep(seconds)  # the work
    return bytes(1 << 20)


def survive(signum: int) -> str:
    os.kill(os.getpid(), signum)
    return "survived"


def signals_of_a_program() -> tuple[list[int], list[int]]:
    """The signals that a program started by a task has blocked, and ignores."""
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    masks = dict(line.split(":\t") for line in status.stdout.splitlines() if line.startswith("Sig"))
    return _signals(masks["SigBlk"]), _signals(masks["SigIgn"])


def _signals(mask: str) -> list[int]:
    return [number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1]


def sockets(lock: BaseLock, _: int) -> tuple[int, list[str]]:
    """The pid, and the sockets that this process has open."""
    with lock:
        links = [_target(fd) for fd in os.listdir("/proc/self/fd")]
    return os.getpid(), sorted(link for link in links if link.startswith("socket:"))


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the one that the listing itself used
        return ""


def give_back_other(semaphore: BaseLock) -> None:
    """Release what another process took, as multiprocessing allows."""
    semaphore.release()


def long_record(writer: int, number: int) -> str:
    """More than a pipe can hold."""
    return f"{writer}:{number}:{'x' * 100_000}"


def write_long_records(log: LockedLogWriter, writer: int) -> None:
    for number in range(5):
        print(writer, ":", number, ":", "x" * 100_000, sep="", file=log)


def print_a_part(log: LockedLogWriter) -> None:
    print("a part", end="", file=log)


def die_with(lock: BaseLock) -> None:
    """Take *lock* and end this worker."""
    lock.acquire()
    os._exit(1)
