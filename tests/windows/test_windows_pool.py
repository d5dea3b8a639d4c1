"""The pool on Windows: its sockets, Ctrl-C, workers and pools that are killed, exit codes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_sharer
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from helpers import environment, kill, running, wait_for_pid, wait_until, workers
from poollock import (
    BaseLock,
    BrokenPoolError,
    Lock,
    RLock,
    Semaphore,
    WorkerDiedError,
    current_lock,
    locked_pool,
)

if sys.platform != "win32":
    pytest.skip("what is particular to Windows", allow_module_level=True)
assert sys.platform == "win32"  # for type checkers that do not see that the line before raises

from poollock._backend.describe import describe_exit, was_killed
from poollock._backend.sockets import socket_pair

_CREATE_NO_WINDOW = 0x08000000  # with a console of its own, so that Ctrl-C in it reaches nobody else


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(text)
    return path


# Sockets.


def test_small_messages_are_not_kept_back() -> None:
    for end in socket_pair():
        with end:
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with locked_pool(1) as pool:
        pool.apply(len, (b"",))
        times = []
        for _ in range(30):
            began = time.perf_counter()
            assert pool.apply(len, (b"x" * 20_000,)) == 20_000
            times.append(time.perf_counter() - began)
    assert median(times) < 0.02  # 0.045, if the second part of a message waits for the first


def test_socket_goes_to_the_worker_without_the_resource_sharer() -> None:
    """Its thread would keep the sockets of workers that end before they have fetched theirs."""
    with locked_pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    assert vars(resource_sharer)["_resource_sharer"]._listener is None


def test_workers_that_end_early_leave_no_socket_and_say_nothing_of_it(tmp_path: Path) -> None:
    path = program(tmp_path, EARLY_END)
    done = subprocess.run(
        [sys.executable, str(path)], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "BrokenPoolError True", "")


EARLY_END = """if True:
    import gc, os, socket, sys
    import poollock
    if __name__ == "__main__":
        with poollock.locked_pool(2) as pool:
            pool.map(abs, [1])
        gc.collect()
        before = sum(isinstance(each, socket.socket) for each in gc.get_objects())
        try:
            with poollock.locked_pool(2, os._exit, (3,)) as pool:
                pool.map(abs, [1])
        except poollock.BrokenPoolError as error:
            name = type(error).__name__
        del pool
        gc.collect()
        print(name, sum(isinstance(each, socket.socket) for each in gc.get_objects()) <= before)
"""


# Ctrl-C.


@pytest.mark.parametrize(
    "wait", ["map", *(pytest.param(wait, marks=pytest.mark.slow) for wait in ("imap", "join"))]
)
def test_ctrl_c_interrupts_a_wait(wait: str) -> None:
    pool = locked_pool(1)
    try:
        timer = threading.Timer(1, signal.raise_signal, [signal.SIGINT])
        began = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - one of them waits
            if wait == "map":
                pool.map(time.sleep, [60])
            elif wait == "imap":
                next(pool.imap(time.sleep, [60]))
            else:
                pool.apply_async(time.sleep, (60,))
                pool.close()
                pool.join()
        assert time.monotonic() - began < 30
    finally:
        pool.terminate()
        pool.join()


CTRL_C = """if True:
    import ctypes, os, signal, subprocess, sys, time
    from pathlib import Path
    if __name__ != "__main__":
        Path(sys.argv[1], f"importing-{os.getpid()}").touch()
        time.sleep(float(sys.argv[2]))
    import poollock

    def start_a_program(directory):
        "A program that a task starts does not ignore Ctrl-C."
        Path(directory, "started").touch()
        return subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], stderr=-3).returncode

    if __name__ == "__main__":
        directory = Path(sys.argv[1])

        def press(condition):
            "Press Ctrl-C once there is what is waited for."
            import threading
            def wait():
                while not condition():
                    time.sleep(0.01)
                time.sleep(0.3)
                assert ctypes.windll.kernel32.GenerateConsoleCtrlEvent(0, 0)
            threading.Thread(target=wait, daemon=True).start()

        pool = poollock.locked_pool(2)
        if sys.argv[3] == "importing":
            press(lambda: len(list(directory.glob("importing-*"))) == 2)
            function, items = abs, [1, 2]
        else:
            pool.map(abs, [1, 2])
            press((directory / "started").exists)
            function, items = start_a_program, [directory]
        try:
            result = pool.map_async(function, items)
            print("done", result.get())
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
        print("workers", result.get(60) if sys.argv[3] == "importing" else bool(result.get(60)))
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize(("when", "answer"), [("importing", "[1, 2]"), ("running", "True")])
def test_ctrl_c_in_the_console(tmp_path: Path, when: str, answer: str) -> None:
    """The program decides what to do; the workers go on, and print nothing, even while they import."""
    path = program(tmp_path, CTRL_C)
    done = subprocess.run(
        [sys.executable, str(path), str(tmp_path), "1" if when == "importing" else "0", when],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        creationflags=_CREATE_NO_WINDOW,
    )
    assert (done.stdout.splitlines(), done.stderr) == (["KeyboardInterrupt", f"workers {answer}"], "")


# Deaths.


KILLED_POOL = """if True:
    import os, sys, time
    from pathlib import Path
    import poollock

    def wait(directory, number):
        Path(directory, f"pid-{number}.new").write_text(str(os.getpid()))
        Path(directory, f"pid-{number}.new").rename(Path(directory, f"pid-{number}"))
        while not Path(directory, "go").exists():
            time.sleep(0.01)
        return bytes(1_000_000)

    if __name__ == "__main__":
        with poollock.locked_pool(3) as pool:
            pool.starmap(wait, [(sys.argv[1], number) for number in range(2)], chunksize=1)
"""


def test_worker_whose_pool_is_killed_ends_quietly(tmp_path: Path) -> None:
    """Two of them in the middle of a task, one waiting for one."""
    path = program(tmp_path, KILLED_POOL)
    with (tmp_path / "errors").open("w") as errors:
        pool = subprocess.Popen([sys.executable, str(path), str(tmp_path)], env=environment(), stderr=errors)
        pids = [wait_for_pid(tmp_path / f"pid-{number}") for number in range(2)]
        kill(pool.pid)
        pool.wait()
        (tmp_path / "go").touch()
        wait_until(lambda: not any(map(running, pids)))
    # No more than that: Wine lets the threads of the killed pool run for a moment without its handles, and
    # CPython 3.13 says so ("Fatal Python error: _PySemaphore_Init").
    assert "Traceback" not in (tmp_path / "errors").read_text()


@pytest.mark.parametrize(
    "make",
    [
        Lock,
        pytest.param(RLock, marks=pytest.mark.slow),
        pytest.param(partial(Semaphore, 1), marks=pytest.mark.slow),
    ],
)
def test_lock_of_a_killed_worker_is_freed(make: Callable[..., BaseLock]) -> None:
    with locked_pool(3, locks={"lock": make()}) as pool:
        for _ in range(2):
            pids = set(pool.map(own_pid_slowly, range(3), chunksize=1))
            with pytest.raises(WorkerDiedError) as caught:
                pool.apply(die_with_the_lock)
            assert caught.value.pid in pids or caught.value.pid not in workers(pool)
            assert caught.value.locks_held == ("lock",)
            assert pool.lock.abandoned
            pool.lock.mark_consistent()
            assert pool.apply(lock_and_unlock)


def own_pid_slowly(_: int) -> int:
    return os.getpid()


def die_with_the_lock() -> None:
    current_lock().acquire()
    os.kill(os.getpid(), signal.SIGTERM)


def lock_and_unlock() -> bool:
    with current_lock():
        return True


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        (partial(os.kill, 0, 9), 9, "ended with exit code 9"),
        pytest.param("terminate", -15, "was killed by SIGTERM", marks=pytest.mark.slow),
        ("kill", -15, "was killed by SIGTERM"),
        ("crash", 0xC0000005, "ended with exit code 0xc0000005"),
    ],
)
def test_exit_codes_of_workers(end: Any, code: int, text: str, tmp_path: Path) -> None:
    with locked_pool(1) as pool:
        result = pool.apply_async(crash if end == "crash" else write_pid_and_wait, (str(tmp_path / "pid"),))
        if end != "crash":
            pid = wait_for_pid(tmp_path / "pid")
            if isinstance(end, str):
                getattr(pool._pool[0], end)()
            else:
                os.kill(pid, 9)
        with pytest.raises(WorkerDiedError, match=text) as caught:
            result.get()
        assert caught.value.exitcode == code
        assert pool.apply(abs, (-1,)) == 1


def write_pid_and_wait(path: str) -> None:
    Path(path + ".new").write_text(str(os.getpid()))
    Path(path + ".new").rename(path)
    time.sleep(600)


def crash(_: str) -> None:
    import _winapi  # noqa: PLC0415 - in the worker

    _winapi.TerminateProcess(_winapi.GetCurrentProcess(), 0xC0000005)


def test_codes_of_those_that_were_killed() -> None:
    killed = [-15, 9, 15, 0xC0000005, 0xC000013A, 0xC00000FD, None]
    by_themselves = [0, 1, 2, 3, 120, 255, 0xFFFFFFFF]
    assert [was_killed(code) for code in killed + by_themselves] == [True] * 7 + [False] * 7
    assert describe_exit(0xC0000005) == "ended with exit code 0xc0000005"


def test_workers_that_end_by_themselves_break_the_pool(tmp_path: Path) -> None:
    with pytest.raises(BrokenPoolError), locked_pool(1, note_and_end, (str(tmp_path), 3)) as pool:
        pool.apply(abs, (1,))
    assert len(list(tmp_path.iterdir())) in range(3, 7)


@pytest.mark.slow
def test_workers_that_were_killed_are_replaced_more_often(tmp_path: Path) -> None:
    """Perhaps nothing is wrong with them."""
    with locked_pool(1, note_and_end, (str(tmp_path), 9)) as pool:
        result = pool.apply_async(abs, (1,))
        wait_until(lambda: len(list(tmp_path.iterdir())) > 4)
        assert not result.ready()


def note_and_end(directory: str, code: int) -> None:
    Path(directory, str(os.getpid())).touch()
    if code == 9:
        os.kill(os.getpid(), code)
    os._exit(code)
