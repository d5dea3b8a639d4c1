"""What goes wrong in a worker, in a module that a spawned worker can import."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from helpers import PACKAGE, MaybeEncodingError, open_sockets, running, wait_until
from poollock import BaseLock, current_lock

HUNDRED_MB = 100 << 20


def kill() -> None:
    os.kill(os.getpid(), 9)


def segfault() -> None:
    faulthandler.disable()  # which pytest enables: nobody is to be frightened
    ctypes.string_at(0)


def leave() -> NoReturn:
    sys.exit(7)


def leave_at_once() -> NoReturn:
    os._exit(0)


def raise_error() -> NoReturn:
    raise ValueError("as ordered, in a text that is told and not cut, however long it is")


FAULTS: dict[str, Callable[[], object]] = {
    "SIGKILL": kill,
    "SIGSEGV": segfault,
    "exit": leave,
    "C exit": leave_at_once,
    "exception": raise_error,
}


def run(fault: str) -> None:
    if fault != "none":
        FAULTS[fault]()


def same(x: object) -> object:
    return x


class AtPickling:
    """Has its fault when it is pickled."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __reduce__(self) -> Any:
        run(self.fault)
        return AtPickling, (self.fault,)


class FailsAtPickling:
    """Raises when it is pickled."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error("as ordered")


class AtUnpickling:
    """Has its fault when it is unpickled."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __reduce__(self) -> Any:
        return run, (self.fault,)


def give_at_pickling(fault: str) -> AtPickling:
    return AtPickling(fault)


def give_at_unpickling(fault: str) -> AtUnpickling:
    return AtUnpickling(fault)


def square(x: int) -> int:
    return x * x


def with_lock(lock: BaseLock, x: int) -> int:
    with lock:
        return x


def take_and(lock: BaseLock, fault: str, times: int = 1) -> None:
    for _ in range(times):
        lock.acquire()
    run(fault)


def take_and_return(lock: BaseLock) -> str:
    lock.acquire()
    return "done"


def take_and_raise(lock: BaseLock) -> NoReturn:
    lock.acquire()
    raise ValueError("as ordered, in a text that is told and not cut, however long it is")


def hold_while(lock: BaseLock, path: str) -> int:
    """Hold the lock, and write the own pid to *path*, until that is gone."""
    with lock:
        return stay_while(path)


def hold_in_a_thread(lock: BaseLock, path: str) -> None:
    """Leave a thread that holds the lock until *path* is gone."""
    threading.Thread(target=hold_while, args=(lock, path), daemon=True).start()
    wait_until(Path(path).exists)


def stay_in_a_thread(path: str) -> None:
    """Leave a thread that lives until *path* is gone."""
    threading.Thread(target=stay_while, args=(path,), daemon=True).start()
    wait_until(Path(path).exists)


def take_and_stay(lock: BaseLock, path: str) -> None:
    """Take the lock, which somebody else releases before *path* is gone."""
    lock.acquire()
    stay_while(path)


def take_for_life() -> None:
    """Be an initializer that takes a lock."""
    current_lock().acquire()


def stay_and_return(path: str, size: int) -> bytes:
    stay_while(path)
    return bytes(size)


def size_and_stay(data: bytes, path: str) -> int:
    stay_while(path)
    return len(data)


def stay_while(path: str) -> int:
    """Write the own pid to *path*, and go on until that is gone."""
    write_pid(path)
    while Path(path).exists():
        time.sleep(0.002)
    return os.getpid()


def write_pid(path: str) -> None:
    temporary = Path(f"{path}-{os.getpid()}")
    temporary.write_text(str(os.getpid()))
    temporary.rename(path)  # whoever sees it finds all of it


def own_pid(_: object = None) -> int:
    return os.getpid()


def large_result(path: str) -> bytes:
    """Write the own pid to *path*, and send much."""
    write_pid(path)
    return bytes(HUNDRED_MB)


def size(data: bytes) -> int:
    return len(data)


def fork_and_return(_: int) -> int:
    """Return in a forked child, too."""
    if os.fork() == 0:
        return -1
    return 1


def leave_a_child(path: str) -> None:
    """Start a process that outlives this worker and has all its files open; die."""
    if os.fork() == 0:
        end = time.monotonic() + 100  # whatever becomes of the test
        while Path(path).exists() and time.monotonic() < end:
            time.sleep(0.002)
        os._exit(0)
    kill()


class Odd:
    """A proxy of something that is not there, say."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            raise RuntimeError
        return object.__getattribute__(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Odd, ()


def give_odd() -> Odd:
    return Odd()


def give_maybe_encoding_error() -> Any:
    return MaybeEncodingError(RuntimeError(), "value")


class Unshowable(Exception):  # noqa: N818 - it is what it is
    def __str__(self) -> str:
        raise AttributeError("text")


def raise_unshowable() -> NoReturn:
    raise Unshowable


class FailsAtUnpickling:
    def __reduce__(self) -> tuple[Any, ...]:
        return raise_unshowable, ()


def give_unshowable() -> FailsAtUnpickling:
    return FailsAtUnpickling()


class NeedsTwo(Exception):  # noqa: N818 - it is what it does
    """Pickles, and does not unpickle: it is sent with one argument."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_needs_two() -> NoReturn:
    raise NeedsTwo(1, 2)


def raise_unpicklable() -> NoReturn:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined] # what makes it unpicklable
    raise error


def fail_once(path: str) -> None:
    """Be an initializer that fails the first time."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return
    raise ValueError("the first time")


def count_and_fail(path: str, fault: str) -> None:
    """Be an initializer that notes in which processes it was called."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    run(fault)


def fail_as_told(path: str) -> None:
    """Be an initializer that has the fault that a file names, the first time only if it is an exception."""
    fault = Path(path).read_text()
    if fault == "exception":
        Path(path).write_text("none")
    run(fault)


def pass_over(*_: object) -> None:
    """Be an initializer that needs all of its arguments to arrive."""


def announce(directory: str) -> None:
    """Be an initializer that offers this worker to the killer."""
    (Path(directory) / "targets" / str(os.getpid())).touch()


def touch(directory: str, _: bytes) -> None:
    """Be an initializer that leaves a trace."""
    (Path(directory) / str(os.getpid())).touch()


def were_inside(inside: Path, pids: list[str], most: int) -> bool:
    """Return whether *most* of those were inside; one that was killed may be on its way out of the kernel.

    As soon as that is known: one that is inside may itself be waiting for this process to leave.
    """
    while True:
        left = [pid for pid in pids if not (inside / pid).exists()]
        killed = [pid for pid in pids if pid not in left and not running(int(pid))]
        if len(left) >= most:
            return True
        if len(pids) - len(killed) < most:
            return False
        time.sleep(0.001)


def increment(lock: BaseLock, directory: str, most: int) -> None:
    """Add one, under two detectors.

    Nobody else may be inside, but *most* - 1 others, if nobody died there; and a counter that is
    read and written must not lose an increment.
    """
    inside = Path(directory) / "inside"
    me = inside / str(os.getpid())
    with lock:
        me.touch()
        others = [pid for pid in os.listdir(inside) if pid != me.name and running(int(pid))]
        abandoned = lock.abandoned
        if abandoned:
            lock.mark_consistent()
        if len(others) >= most and not abandoned and were_inside(inside, others, most):
            raise AssertionError(f"{others} were inside, too")
        if most == 1:
            fd = os.open(f"{directory}/counter", os.O_RDWR)
            count = int(os.pread(fd, 16, 0) or b"0")
            os.pwrite(fd, b"%016d" % (count + 1), 0)
            os.close(fd)
        me.unlink()


def take_unsigned(lock: Any) -> None:
    """Die in the moment between taking a lock and signing for it."""
    lock._semlock.acquire()
    kill()


def take_and_sign_late(lock: Any, pid_path: str, sign_path: str) -> None:
    """Take a lock, and sign for it only after a while, as if another thread had the GIL."""
    lock._semlock.acquire()
    Path(pid_path).touch()
    wait_until(Path(sign_path).exists)
    lock._words[1] = os.getpid()
    lock.release()


def die_soon(step: int) -> int:
    """Let this worker die at the *step*-th line of the library that it reaches; return its pid."""
    reached: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        if PACKAGE in Path(frame.f_code.co_filename).parents and event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            if len(reached) == step:
                kill()
        return trace

    sys.settrace(trace)
    for frame, _ in traceback.walk_stack(None):
        frame.f_trace = trace
    return os.getpid()


def write_to_own_pipe(_: int) -> NoReturn:
    """Send the pool what no memory has room for."""
    sockets = [socket.socket(fileno=fd) for fd in open_sockets()]
    pipes = [each for each in sockets if not each.getpeername()]  # the manager's socket has a name
    while True:
        for pipe in pipes:
            pipe.sendall(b"\xff" * 100)
        time.sleep(0.001)


def stay_or_square(x: str | int) -> int:
    return stay_while(x) if isinstance(x, str) else x * x


def stay_or_size(text: str) -> int:
    return stay_while(text) if os.path.isabs(text) else len(text)
