"""The locks of a manager pool: what a client that ends leaves, and how many connections there are."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing import managers, resource_tracker
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest

import tasks
from helpers import METHODS, TESTS, children, open_files, running, signalled_inside, wait_until
from poollock import BaseLock, ManagerDiedError, RLock, Semaphore, manager_locked_pool
from poollock._manager import connection as client_module
from poollock._manager.proxies import make_lock
from poollock._manager.server import LockManager, _ServedLock


@pytest.fixture(scope="module")
def manager() -> Iterator[LockManager]:
    started = LockManager(multiprocessing.get_context("spawn"))
    started.start()
    yield started
    started.shutdown()


@pytest.fixture(params=[None, RLock(), Semaphore(1)], ids=["lock", "rlock", "semaphore"])
def lock(request: pytest.FixtureRequest, manager: LockManager) -> BaseLock:
    return make_lock(manager, request.param)


def start(target: Any, *args: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    return process


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
    assert not [name for name in os.listdir(tmp_path) if name.startswith("poollock-")]


def test_client_that_dies_gives_the_lock_back(lock: BaseLock) -> None:
    start(tasks.hold_and_die, lock).join()
    with lock.hold(30):
        assert lock.holder == os.getpid()
        assert lock.abandoned
        lock.mark_consistent()
    assert not lock.abandoned


def test_client_that_dies_waiting_does_not_get_the_lock(lock: BaseLock, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with lock:
        process = start(wait_for, lock, str(flag))
        wait_until(flag.exists)
        process.kill()
        process.join()
    with lock.hold(30):
        pass
    assert not lock.abandoned


def wait_for(lock: BaseLock, path: str) -> None:
    assert lock.locked()
    Path(path).touch()
    lock.acquire()


def test_client_that_is_killed_in_the_middle(lock: BaseLock, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    process = start(tasks.hold_until, lock, str(flag))
    wait_until(flag.exists)
    assert lock.holder == process.pid
    process.kill()
    process.join()
    with lock.hold(30):
        assert lock.abandoned
        lock.mark_consistent()


def test_thread_that_ends_keeps_the_lock_as_in_multiprocessing(manager: LockManager) -> None:
    lock = make_lock(manager)
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock.holder == os.getpid()
    lock.release()
    assert not lock.locked()
    assert not lock.abandoned


def test_released_too_often_and_by_another(manager: LockManager) -> None:
    lock = make_lock(manager)
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    assert lock.acquire()
    start(lock.release).join()
    assert not lock.locked()


def test_wait_that_is_interrupted(manager: LockManager) -> None:
    """The lock taken before stays ours, the one waited for is not lost."""
    outer, inner = make_lock(manager), make_lock(manager)
    ready, done = threading.Event(), threading.Event()

    def hold_inner() -> None:
        with inner:
            ready.set()
            done.wait()

    thread = threading.Thread(target=hold_inner)
    thread.start()
    ready.wait()
    try:
        with outer:
            for _ in range(2):
                interrupted(inner.acquire)
                assert outer.holder == os.getpid()
            done.set()
            thread.join()
            assert outer.locked()
        with inner.hold(30), outer.hold(30):
            pass
        assert not outer.abandoned
    finally:
        done.set()


def test_answer_that_is_interrupted(manager: LockManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of it is not the answer to the next question, and the lock stays taken."""
    lock = make_lock(manager)
    connections: Any = Connection  # _recv is not in typeshed
    receive = connections._recv

    def interrupt(connection: Any, size: int) -> Any:
        monkeypatch.undo()
        receive(connection, size)
        raise TimeoutError("by an alarm")  # the length has been read, the answer has not

    with lock:
        monkeypatch.setattr(connections, "_recv", interrupt)
        with pytest.raises(TimeoutError, match="by an alarm"):
            lock.locked()
        assert lock.locked()
        assert lock.holders == (os.getpid(),)
        process = start(take_now, lock)
        process.join()
        assert process.exitcode == 1
    assert not lock.locked()
    assert not lock.abandoned


def take_now(lock: BaseLock) -> None:
    sys.exit(0 if lock.acquire(block=False) else 1)


def test_threads_that_release_at_once(manager: LockManager) -> None:
    semaphore = make_lock(manager, Semaphore(4))
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    ready = threading.Barrier(4)

    def release() -> None:
        ready.wait()
        semaphore.release()

    try:
        for _ in range(100):
            for _ in range(4):
                semaphore.acquire()
            threads = [threading.Thread(target=release) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert semaphore.holders == ()
    finally:
        sys.setswitchinterval(switch)


def test_wait_that_is_interrupted_and_tried_again(manager: LockManager) -> None:
    """What the first wait may have been granted must not stand in the way of the second."""
    outer, inner = make_lock(manager), make_lock(manager)
    told = multiprocessing.get_context("spawn").Event()
    process = start(hold_until_told, inner, told)
    wait_until(inner.locked)
    with outer:
        interrupted(inner.acquire)
        told.set()
        process.join()
        assert inner.acquire(timeout=30)
        inner.release()
    assert not inner.abandoned
    assert not outer.abandoned


def hold_until_told(lock: BaseLock, told: Any) -> None:
    with lock:
        told.wait()


def interrupted(function: Callable[[], Any]) -> None:
    def give_up(*_: object) -> None:
        raise TimeoutError("by an alarm")

    with signalled_inside(give_up), pytest.raises(TimeoutError, match="by an alarm"):
        function()


def test_signal_handler_that_uses_another_lock(manager: LockManager) -> None:
    first, second, taken = make_lock(manager), make_lock(manager), make_lock(manager)
    seen: list[Any] = []

    def look(*_: object) -> None:
        seen.extend([taken.acquire(block=False), second.acquire(block=False), second.holder, repr(first)])
        done.set()

    done = threading.Event()
    holder = threading.Thread(target=lambda: (first.acquire(), taken.acquire()))
    holder.start()
    holder.join()
    releaser = threading.Thread(target=lambda: (done.wait(), first.release()))
    releaser.start()
    with signalled_inside(look):
        assert first.acquire(timeout=30) is True
    releaser.join()
    assert seen == [False, True, os.getpid(), f"<ManagerLock held by {os.getpid()}>"]
    assert first.holder == os.getpid()
    for lock in (first, second, taken):
        lock.release()
        assert not lock.locked()


def test_wrong_arguments_do_no_harm(manager: LockManager) -> None:
    lock = make_lock(manager)
    wrong: Any = "soon"
    with lock:
        with pytest.raises(ValueError, match="soon"):
            lock.acquire(timeout=wrong)
        with pytest.raises(AttributeError):
            lock._call("no_such_method")  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        assert lock.holder == os.getpid()
    assert lock.acquire(timeout=1e12)
    lock.release()
    assert not lock.abandoned


def test_manager_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(LockManager, "start", fail)
    with pytest.raises(OSError, match="no more processes"):
        manager_locked_pool(1)


@pytest.mark.skipif("spawn" not in METHODS, reason="needs spawn")
@pytest.mark.parametrize("size", [0, 50_000], ids=["a pipe holds it", "more than a pipe holds"])
def test_manager_that_ends_before_it_is_ready(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, *map(str, range(size))])
    resource_tracker.ensure_running()  # it is another process that is started so
    multiprocessing.set_executable("/bin/true")
    try:
        with pytest.raises(ManagerDiedError, match="ended with exit code 0, before it was ready"):
            manager_locked_pool(1, context="spawn")
    finally:
        multiprocessing.set_executable(sys.executable)


def test_lock_of_another_manager_is_used_as_it_is(manager: LockManager) -> None:
    lock = make_lock(manager)
    with manager_locked_pool(1, locks={"lock": lock}) as pool:
        assert pool.lock is lock
        with lock:
            assert not pool.apply(tasks.try_lock)
        assert pool.apply(tasks.try_lock)


def test_forked_child_has_its_own_connection(manager: LockManager) -> None:
    lock, other = make_lock(manager), make_lock(manager)
    with lock:
        process = multiprocessing.get_context("fork").Process(target=exit_holding, args=(lock, other))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert lock.holder == os.getpid()
    with other.hold(30):  # it was given back when the child's connection ended
        assert other.abandoned


def test_connection_is_known_before_the_first_answer(
    manager: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forked from then on closes its copy."""
    known: list[bool] = []

    def answer(connection: Any, key: bytes) -> None:
        known.append(any(client._connection is connection for client in client_module._clients))
        answer_challenge(connection, key)

    answer_challenge = multiprocessing.connection.answer_challenge
    monkeypatch.setattr(client_module, "answer_challenge", answer)
    address, key, _ = make_lock(manager)._get_state()
    client_module.ManagerClient(address, key).close()
    assert known == [True]


def test_client_is_not_closed_in_the_middle_of_another_threads_call(
    manager: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, asked, answer = make_lock(manager), threading.Event(), threading.Event()
    got: list[Any] = []

    def receive(connection: Connection) -> Any:
        if threading.current_thread() is other:
            asked.set()
            answer.wait()
        return standard(connection)

    standard = Connection.recv
    other = threading.Thread(target=lambda: got.append(lock.locked()))
    lock.acquire()
    proxy: Any = lock
    ((_, client),) = proxy._granted
    client_module._idle[manager.address][:] = [client]
    monkeypatch.setattr(Connection, "recv", receive)
    other.start()
    asked.wait()
    assert client._caller == other.ident
    client.close()
    answer.set()
    other.join()
    assert got == [True]
    assert client._connection.closed
    with pytest.raises(ValueError, match="too many times"):  # with its connection, it was given back
        lock.release()


def test_interrupted_try_takes_nothing_from_the_thread_that_uses_its_connection_next(
    manager: LockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raises when the client is anybody's again."""
    proxy: Any = make_lock(manager)
    client_module._idle.get(manager.address, []).clear()
    address, key, ident = proxy._get_state()
    holder = client_module.ManagerClient(address, key)
    holder.call(ident, "acquire", (0, "grant", True, None))
    client_module._idle[address].clear()  # as if it were another process's
    got: list[Any] = []

    def rest(client: client_module.ManagerClient) -> None:
        standard(client)
        if threading.current_thread() is not other and other.ident is None:
            other.start()
            wait_until(lambda: client._caller == other.ident)
            raise KeyError

    standard = client_module.ManagerClient.rest
    other = threading.Thread(target=lambda: got.append((proxy.acquire(), proxy.holders, proxy.abandoned)))
    with monkeypatch.context() as patch:
        patch.setattr(client_module.ManagerClient, "rest", rest)
        with pytest.raises(KeyError):
            proxy.acquire(block=False)
    holder.call(ident, "release", ("grant",))
    other.join()
    assert got == [(True, (os.getpid(),), False)]
    assert not proxy.acquire(block=False)
    proxy.release()


@pytest.mark.parametrize(
    ("kind", "instant"), [(client_module.ManagerClient, "call"), (Connection, "send"), (Connection, "recv")]
)
def test_interrupted_call_leaves_no_connection(
    manager: LockManager, monkeypatch: pytest.MonkeyPatch, kind: type, instant: str
) -> None:
    lock = make_lock(manager)
    lock.locked()
    before = open_files().total()

    def interrupt(_: object, *_args: object) -> NoReturn:
        raise KeyError

    for use in (lock.locked, lock.acquire):
        with monkeypatch.context() as patch:
            patch.setattr(kind, instant, interrupt)
            with pytest.raises(KeyError):
                use()
        gc.collect()
        assert use() is (use == lock.acquire)
        assert open_files().total() <= before  # it is another one
    lock.release()


def exit_holding(lock: BaseLock, other: BaseLock) -> None:
    other.acquire()
    os._exit(int(lock.acquire(block=False)))


def test_worker_keeps_one_connection(method: str) -> None:
    with manager_locked_pool(2, context=method, locks=("lock", "log")) as pool:
        seen: dict[int, set[tuple[str, ...]]] = {}
        for lock in pool.locks.values():
            for pid, open_sockets in pool.starmap(tasks.sockets, [(lock, x) for x in range(40)], chunksize=1):
                seen.setdefault(pid, set()).add(tuple(open_sockets))
    assert all(len(one) == 1 for one in seen.values())


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
    with manager_locked_pool(1) as pool:
        lock = pool.lock
    with pytest.raises(ManagerDiedError, match=r"lock 'lock' cannot be reached.*It ends with its pool"):
        lock.acquire()
    assert repr(lock) == "<ManagerLock 'lock' whose manager process has ended>"


def test_manager_that_was_killed(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = manager_locked_pool(2, context=method)
    with pool:
        kill_manager(pool)
        with pytest.raises(ManagerDiedError, match="its manager process has ended"):
            pool.map(tasks.holder_seen, [1])
    assert [name for name in os.listdir(tmp_path) if name.startswith("poollock-")] == []


def kill_manager(pool: Any) -> None:
    pool._manager._process.kill()
    pool._manager._process.join()


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
            env={**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path)},
        ) as parent,
    ):
        assert parent.stdout is not None
        pids = list(map(int, parent.stdout.readline().split()))
        parent.kill()
    assert len(pids) == (4 if name == "locked_pool" else 6)
    for pid in pids:
        wait_until(lambda pid=pid: not running(pid))  # type: ignore[misc] # mypy wants a type there
    assert [name for name in os.listdir(tmp_path) if name.startswith("poollock-")] == []
    assert "Traceback" not in errors.read_text()


def test_what_was_taken_back_is_not_taken_from_another() -> None:
    """As when a worker is killed while it waits: its grant is withdrawn, and the answer cannot be sent."""
    lock = _ServedLock(1, bounded=True)
    client: Any = object()
    assert lock.acquire(client, 1, (1, 0), block=True, timeout=None)
    assert not lock.take_back((2, 0))
    with pytest.raises(ValueError, match="released too many times"):
        lock.release(client, (2, 0))
    assert lock.state(client) == (0, (1,), False)
