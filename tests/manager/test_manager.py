"""The manager process: how it starts and ends, who can reach it, and what is told when it is gone."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import managers, resource_tracker
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest

import tasks
from helpers import METHODS, children, environment, needs_posix, open_files, running, wait_until
from poollock import LockedPool, ManagerDiedError, manager_locked_pool
from poollock._manager.manager import LockManager
from poollock._manager.proxies import make_lock
from poollock._manager.server import LockServer


def test_ctrl_c_while_the_manager_is_told_to_end(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    this: Any = managers  # dispatch is not in typeshed
    tell = this.dispatch

    def press(connection: Any, ident: Any, name: str, *arguments: Any) -> Any:
        if name == "shutdown":
            signal.raise_signal(signal.SIGINT)
        return tell(connection, ident, name, *arguments)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(managers, "dispatch", press)
    pool = manager_locked_pool(2, context=method)
    with pytest.raises(KeyboardInterrupt):
        pool.terminate()
    wait_until(lambda: children() == before)
    assert directories(tmp_path) == []


def sockets() -> int:
    return sum(link.startswith("socket:") for link in open_files().elements())


def directories(place: Path) -> list[str]:
    return [name for name in os.listdir(place) if name.startswith("poollock-")]


def test_manager_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(LockManager, "start", fail)
    with pytest.raises(OSError, match="no more processes"):
        manager_locked_pool(1)


@needs_posix
def test_manager_that_ends_before_it_is_ready() -> None:
    resource_tracker.ensure_running()  # it is another process that is started so
    multiprocessing.set_executable("/bin/true")
    try:
        with pytest.raises(
            ManagerDiedError, match=r"(exit code 0|with an unknown exit code), before it was ready$"
        ):
            manager_locked_pool(1, context="spawn")
    finally:
        multiprocessing.set_executable(sys.executable)


def test_main_module_that_cannot_be_imported(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""if __name__ != "__main__":
    raise ZeroDivisionError
import poollock
try:
    poollock.manager_locked_pool(1, context="spawn")
except poollock.ManagerDiedError as error:
    print(error)
""")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert (
        "ended with exit code 1, before it was ready; its traceback is on the standard error" in done.stdout
    )
    assert "imports the main module" in done.stdout
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
def test_error_in_the_manager_before_it_is_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no room for a socket")

    before = children()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(LockServer, "__init__", fail)
    with pytest.raises(ManagerDiedError, match=r"the manager, process .*: OSError: no room for a socket$"):
        manager_locked_pool(1, context="fork")
    wait_until(lambda: children() == before)
    assert directories(tmp_path) == []
    assert "no room for a socket" in capfd.readouterr().err


@needs_posix
@pytest.mark.parametrize("method", [method for method in METHODS if method != "forkserver"])
def test_long_name_of_the_temporary_directory(method: str, tmp_path: Path) -> None:
    """With forkserver, multiprocessing itself fails then, before Python 3.14."""
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    program = """if True:
        import os, sys
        from poollock import manager_locked_pool
        from poollock._manager.manager import tempfile

        if __name__ == "__main__":
            tempfile.tempdir = sys.argv[2]
            with manager_locked_pool(1, context=sys.argv[1]) as pool:
                tempfile.tempdir = None
                mode = os.stat(os.path.dirname(pool._manager.address)).st_mode
                print(pool.apply(pool.lock.locked), mode & 0o777)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, method, str(directory)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", str(0o700)]


@needs_posix
def test_no_room_for_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(prefix: str, dir: str) -> str:  # noqa: A002 - the standard library's
        raise PermissionError(13, "Permission denied", dir)

    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setattr(tempfile, "mkdtemp", make)
    with pytest.raises(PermissionError, match=r"no place for the manager's socket.*xxx.*in '/tmp': "):
        manager_locked_pool(1)


def test_server_is_local_and_needs_the_key(manager: LockManager) -> None:
    if sys.platform == "win32":
        pytest.skip("a named pipe")
    address = manager.address
    assert isinstance(address, str)
    assert Path(address).is_socket()
    assert Path(address).parent.stat().st_mode & 0o077 == 0  # nobody else's directory
    with pytest.raises(multiprocessing.AuthenticationError):
        Client(address, authkey=b"guess")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(address)
    with make_lock(manager):
        pass


def test_keys_differ() -> None:
    context = multiprocessing.get_context("spawn")
    assert LockManager(context)._key != LockManager(context)._key


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_more_connections_than_the_limit_of_open_files_lets_it_begin_with() -> None:
    program = """if True:
        import resource, threading
        from poollock import Semaphore, manager_locked_pool

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, most))
        with manager_locked_pool(1, locks={"lock": Semaphore(60)}, context="fork") as pool:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            for _ in range(60):
                pool.lock.acquire()
            print(len(pool.lock.holders))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "60\n"


def test_error_leaves_no_cycle_behind() -> None:
    """Its frames have a buffer of pickle's, which CPython 3.12 and 3.13 do not collect in a cycle."""
    with manager_locked_pool(1) as pool:
        lock = pool.lock
        assert not lock.locked()
    gc.collect()
    gc.disable()
    try:
        before = alive_errors()
        for use in (lock.locked, lock.acquire):
            with contextlib.suppress(ManagerDiedError):
                use()
        assert alive_errors() == before
    finally:
        gc.enable()


def alive_errors() -> int:
    return sum(isinstance(each, OSError) for each in gc.get_objects())


def test_lock_of_a_pool_that_ended() -> None:
    before = sockets()
    with manager_locked_pool(1) as pool:
        lock = pool.lock
        with lock:
            assert not lock.abandoned
    assert sockets() <= before
    with pytest.raises(ManagerDiedError, match=r"lock 'lock' cannot be reached.*It ends with its pool"):
        lock.acquire()
    assert repr(lock) == "<ManagerLock 'lock' whose manager process has ended>"


def kill_manager(pool: Any) -> None:
    pool._manager._process.kill()
    pool._manager._process.join()


@pytest.mark.parametrize("end", [kill_manager, LockedPool.terminate])
def test_lock_that_is_held_when_its_manager_ends(end: Callable[[LockedPool], None]) -> None:
    before = sockets()
    with manager_locked_pool(1) as pool:
        pool.lock.acquire()
        end(pool)
        with pytest.raises(ManagerDiedError, match="its manager process has ended"):
            pool.lock.release()
        with pytest.raises(ManagerDiedError, match="its manager process has ended"):
            pool.lock.release()
    assert sockets() <= before


def test_manager_that_was_killed(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = manager_locked_pool(2, context=method)
    with pool:
        kill_manager(pool)
        with pytest.raises(ManagerDiedError, match="its manager process has ended"):
            pool.map(tasks.holder_seen, [1])
    assert directories(tmp_path) == []


PARENT = """
import os, sys, time
import tasks
from helpers import FACTORIES, children
if __name__ == "__main__":
    make = {made.__name__: made for made in FACTORIES}[sys.argv[1]]
    pool = make(2, maxtasksperchild=2, context=sys.argv[2])
    other = make(2, context=sys.argv[2])
    # Workers take the place of others: each pool now has some that were forked after the other's.
    pool.map(tasks.holder_seen, range(9), chunksize=1)
    with pool.lock, other.lock:
        for each in (pool, other):
            each.apply_async(tasks.large_result_after, (float(sys.argv[3]),))
        pool.apply_async(tasks.holder_seen, (0,))  # waits for the lock
        while len(pids := children()) != (4 if sys.argv[1] == "locked_pool" else 6):
            time.sleep(0.005)
        print(*pids, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("busy", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["locked_pool", "manager_locked_pool"])
def test_all_end_after_the_parent_was_killed(name: str, method: str, busy: float, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PARENT)
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(program), name, method, str(busy)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(TMPDIR=str(tmp_path)),
        ) as parent,
    ):
        assert parent.stdout is not None
        pids = list(map(int, parent.stdout.readline().split()))
        parent.kill()
    assert len(pids) == (4 if name == "locked_pool" else 6)
    for pid in pids:
        wait_until(lambda pid=pid: not running(pid))  # type: ignore[misc] # mypy wants a type there
    assert directories(tmp_path) == []
    # Without fork, a worker that is being started then finds no data, and CPython shows an error.
    if method == "fork":
        assert "Traceback" not in errors.read_text()
