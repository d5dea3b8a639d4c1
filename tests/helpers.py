"""What the tests share: what is left over, waiting, a signal in the middle of the library."""

from __future__ import annotations

import contextlib
import dis
import gc
import multiprocessing
import multiprocessing.pool
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import poollock
from poollock import LockedPool, locked_pool, manager_locked_pool
from poollock._backend.process import is_gone

TESTS = Path(__file__).parent
PACKAGE = Path(poollock.__file__).parent
METHODS = multiprocessing.get_all_start_methods()  # the default one first
# The same, as parameters of a test that runs with the others in the gate alone.
ONE_METHOD = [METHODS[0], *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])]
# What a test needs that is not on Windows.
needs_fork = pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
removes_open_files = pytest.mark.skipif(
    sys.platform == "win32",
    reason="Wine, and older Windows, keep the name of a removed file while it is open",
)
Factory = Callable[..., LockedPool]
MaybeEncodingError: type[Exception] = vars(multiprocessing.pool)["MaybeEncodingError"]  # not in typeshed
FACTORIES: list[Factory] = [locked_pool, manager_locked_pool]


def open_files() -> Counter[str]:
    """What the descriptors of this process stand for.

    Compare with ``<=``: what an earlier test has left to the garbage collector may be closed meanwhile.
    """
    links: Counter[str] = Counter()
    if sys.platform == "win32":  # which has handles
        return links
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            links[os.readlink(f"/proc/self/fd/{name}")] += 1
    return links


def open_sockets() -> list[int]:
    """The descriptors of the sockets of this process."""
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.append(int(name))
    return found


if sys.platform == "win32":
    import _winapi
    import ctypes
    from ctypes import wintypes

    class _ProcessEntry(ctypes.Structure):
        """PROCESSENTRY32W."""

        _fields_ = (
            ("size", wintypes.DWORD),
            ("usage", wintypes.DWORD),
            ("pid", wintypes.DWORD),
            ("heap", ctypes.c_size_t),
            ("module", wintypes.DWORD),
            ("threads", wintypes.DWORD),
            ("parent", wintypes.DWORD),
            ("priority", wintypes.LONG),
            ("flags", wintypes.DWORD),
            ("program", wintypes.WCHAR * 260),
        )

    def _entries() -> Generator[_ProcessEntry, None, None]:
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.CreateToolhelp32Snapshot.restype = ctypes.c_ssize_t
        snapshot = kernel32.CreateToolhelp32Snapshot(2, 0)
        entry = _ProcessEntry(size=ctypes.sizeof(_ProcessEntry))
        handle = ctypes.c_void_p(snapshot)
        more = kernel32.Process32FirstW(handle, ctypes.byref(entry))
        while more:
            yield entry
            more = kernel32.Process32NextW(handle, ctypes.byref(entry))
        _winapi.CloseHandle(snapshot)


def _stat(pid: int) -> list[str]:
    """The state of a process, its parent, and what else /proc knows; nothing is left of one that has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["X", "0"]


def running(pid: int) -> bool:
    """Whether a process is there, and is more than an entry that nobody has reaped."""
    if sys.platform == "win32":
        return not is_gone(pid)
    return not _has_ended(_stat(pid))


def _has_ended(stat: list[str]) -> bool:
    """Whether all threads have: until then a process that was killed is a zombie that cannot be reaped."""
    return stat[0] == "X" or (stat[0] == "Z" and stat[17] == "1")


def kill(pid: int) -> None:
    """End a process, which can do nothing about that."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; Windows has the second
        os.kill(pid, 9)


def stop(pid: int) -> None:
    """Stop a process, and wait for that: a SIGTERM that comes soon would be taken before the SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _stat(pid)[0] in "TZX")


def _processes() -> dict[int, list[int]]:
    """The running processes, by their parents."""
    found: dict[int, list[int]] = {}
    if sys.platform == "win32":
        for process in _entries():
            if running(process.pid):
                found.setdefault(process.parent, []).append(process.pid)
        return found
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if not _has_ended(stat):
                found.setdefault(int(stat[1]), []).append(int(entry.name))
    return found


def children() -> set[int]:
    """The running processes that this one, or its fork server, has started.

    Not the fork server and the resource tracker themselves: they live as long as this process.
    """
    by_parent = _processes()
    found: set[int] = set()
    for pid in by_parent.get(os.getpid(), ()):
        found.update(by_parent.get(pid, ()) if _is_helper(pid) else {pid})
    return found


def _is_helper(pid: int) -> bool:
    if sys.platform == "win32":
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "resource_tracker" in command or "multiprocessing.forkserver" in command


def kill_descendants() -> None:
    """Kill all processes that this one has started, and all that those have started; not its helpers."""
    by_parent, left = _processes(), children()
    while left:
        pid = left.pop()
        left.update(by_parent.get(pid, ()))
        kill(pid)


def end_what_was_started() -> None:
    """End all pools of this process, so that they start no more workers, and all processes."""
    for each in gc.get_objects():
        if issubclass(type(each), multiprocessing.pool.Pool):
            with contextlib.suppress(Exception):  # one that is not made to its end, say
                each.terminate()
    kill_descendants()


def workers(pool: LockedPool) -> list[int]:
    """The pids of the workers that a pool has now."""
    return [process.pid for process in list(pool._pool)]  # a copy: it is changed by another thread


def are_replaced(pool: LockedPool, killed: list[int]) -> bool:
    """Whether others have taken the place of the workers that were killed."""
    return len(workers(pool)) == len(killed) and not set(workers(pool)) & set(killed)


def wait_for_pid(path: Path) -> int:
    """Wait until a task has written its process's pid to *path*."""
    wait_until(path.exists)
    return int(path.read_text())


def environment(*more: Path, **variables: str) -> dict[str, str]:
    """The environment of a program that can import the modules of the tests."""
    path = os.pathsep.join([*map(str, (TESTS, *more)), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **variables}


def start_program(program: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a program that can import the modules of the tests; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TESTS / "faults"),
        **options,
    )


def in_child(function: Callable[[], object]) -> int:
    """Run *function* in a forked process; return how that ended."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def in_thread(function: Callable[[], Any]) -> Any:
    """Run *function* in another thread; return what it returned."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(function()))
    thread.start()
    thread.join()
    return got[0]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of; the test's own time limit ends it."""
    while not condition():
        time.sleep(0.005)


def bytes_in_pipe(fd: int) -> int:
    """How much is in a pipe that nobody has read yet."""
    import fcntl  # noqa: PLC0415 - not on Windows
    import termios  # noqa: PLC0415 - not on Windows

    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


@contextlib.contextmanager
def signalled_inside(
    handler: Callable[..., None], when: Callable[[], bool] = lambda: True
) -> Generator[None, None, None]:
    """Send a signal to this thread as soon as it stands still in the middle of the library.

    A thread that gets no processor stands still, too, wherever it is: *when* says more, if that matters.
    """
    me, seen = threading.get_ident(), [("", 0)]

    def stands() -> bool:
        frames = [frame for frame, _ in traceback.walk_stack(sys._current_frames()[me])]
        before, seen[:] = [*seen], [(frame.f_code.co_filename, frame.f_lasti) for frame in frames]
        return when() and seen == before and any(PACKAGE in Path(name).parents for name, _ in seen)

    def send() -> None:
        wait_until(stands)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def without_collection() -> Generator[None, None, None]:
    """Collect no garbage: what a finalizer or a callback of the collector raises is lost, and is an error."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Interrupt(Exception):  # noqa: N818 - it is what it does
    """What a handler raises that limits the time of a task."""


def _is_branch_not_taken(frame: FrameType) -> bool:
    """Whether *frame* is at an instruction that Python 3.14 leaves out of the ``try`` around it.

    No signal handler runs there, only a trace function.
    """
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap.get("NOT_TAKEN")


def raise_interrupt() -> None:
    raise Interrupt


def interrupted_at(
    count: int, function: Callable[[], Any], handler: Callable[[], None] = raise_interrupt
) -> bool:
    """Call *function*, and *handler* at step *count* in the library; return whether it got so far."""
    steps = 0

    def step(frame: FrameType, _event: str, _arg: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        if PACKAGE in Path(frame.f_code.co_filename).parents and not _is_branch_not_taken(frame):
            steps += 1
            if steps == count:
                handler()
        return step

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # 3.12 asks for these when tracing starts
    with without_collection():
        sys.settrace(step)
        try:
            function()
        except Interrupt:
            pass
        finally:
            sys.settrace(before)
    return steps >= count


def handled_at(
    count: int, function: Callable[[], Any], handler: Callable[[], object] = raise_interrupt
) -> bool:
    """Call *function*, and *handler* where Python may run one for the *count*th time; return whether it did.

    That is where the library has entered a function of its own, or has called one that is written in C.
    """
    places = 0

    def look(frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal places
        if event in {"call", "c_return"} and PACKAGE in Path(frame.f_code.co_filename).parents:
            places += 1
            if places == count:
                handler()

    before = sys.getprofile()
    with without_collection():
        sys.setprofile(look)
        try:
            function()
        except Interrupt:
            pass
        finally:
            sys.setprofile(before)
    return places >= count
