"""LockManager: the process in which the locks of a manager_locked_pool live, and the way to it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, Server, dispatch  # type: ignore[attr-defined] # not in typeshed
from multiprocessing.util import Finalize
from typing import Any, ClassVar

from ._process import parent_is_gone

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

_PARENT_CHECK = 0.25  # seconds
_HAS_SOCKETS = sys.platform != "win32"  # there the address is a named pipe


class _ServedLock:
    """A lock or semaphore inside the manager process; each grant belongs to a client's connection.

    A thread that takes a grant out of the list is the one that releases the lock: taking out
    of a list is one step, so that no grant is given back twice.
    """

    def __init__(self, value: int, bounded: bool) -> None:  # noqa: FBT001 - made by BaseManager._create
        self._lock = threading.Lock() if bounded else threading.Semaphore(value)
        self._value = value
        self._grants: list[tuple[Connection, int]] = []
        self._abandoned = False

    def acquire(self, client: Connection, pid: int, block: bool, timeout: float | None) -> bool:  # noqa: FBT001
        if timeout is None and block:
            taken = self._lock.acquire()
        elif timeout is None or timeout <= 0 or not block:
            taken = self._lock.acquire(blocking=False)
        else:
            taken = self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        if taken:
            self._grants.append((client, pid))
        return taken

    def release(self, client: Connection, pid: int) -> None:
        """Give one grant back: the caller's if there is one, else, as in multiprocessing, anyone's."""
        if not self._taken_out((client, pid)) and not self._another_taken_out(pid):
            if isinstance(self._lock, threading.Semaphore):
                self._value += 1
            else:
                raise ValueError("semaphore or lock released too many times")
        self._lock.release()

    def withdraw(self, client: Connection) -> None:
        """Take back what *client* has, whose connection ended."""
        for grant in list(self._grants):
            if grant[0] is client and self._taken_out(grant):
                self._abandoned = True
                self._lock.release()

    def _taken_out(self, grant: tuple[Connection, int]) -> bool:
        try:
            self._grants.remove(grant)
        except ValueError:
            return False
        return True

    def _another_taken_out(self, pid: int) -> bool:
        return any(map(self._taken_out, sorted(self._grants, key=lambda grant: grant[1] != pid)))

    def state(self, _client: Connection) -> tuple[int, tuple[int, ...], bool]:
        grants = list(self._grants)
        return self._value - len(grants), tuple(pid for _, pid in grants), self._abandoned

    def mark_consistent(self, _client: Connection) -> None:
        self._abandoned = False


class _LockServer(Server):
    """Serves the locks to the clients, and takes back what one held when its connection ends."""

    clients: int = 0
    mutex: threading.Lock
    id_to_refcount: dict[str, int]
    id_to_obj: dict[str, tuple[Any, ...]]

    def serve_client(self, conn: Connection) -> None:
        with self.mutex:
            self.clients += 1
        try:
            while True:
                ident, method, args = conn.recv()
                lock = self._lock(ident)
                try:
                    reply = (True, getattr(lock, method)(conn, *args))
                except ValueError as error:
                    reply = (False, str(error))
                try:
                    conn.send(reply)
                except OSError:
                    if reply == (True, True) and method == "acquire":  # it ended waiting, not holding
                        lock.release(conn, *args[:1])
                    raise
        except (EOFError, OSError):
            pass
        finally:
            for ident in list(self.id_to_refcount):
                self._lock(ident).withdraw(conn)
            with self.mutex:
                self.clients -= 1

    def _lock(self, ident: str) -> _ServedLock:
        lock: _ServedLock = self.id_to_obj[ident][0]
        return lock


class LockManager(BaseManager):
    """The process that serves the locks of one pool; it ends when the process that made it does.

    Args:
        ctx: The context that starts the process.
    """

    _Server: ClassVar[type[Server]] = _LockServer

    def __init__(self, ctx: BaseContext) -> None:
        self._key = os.urandom(32)
        super().__init__(authkey=self._key, ctx=ctx)

    @override
    def start(self) -> None:  # type: ignore[override] # one way to start it
        if _HAS_SOCKETS:
            self._address = os.path.join(tempfile.mkdtemp(prefix="poollock-"), "socket")
        try:
            super().start(initializer=_watch_parent)
        except BaseException:
            _remove_directory(self.address)
            raise

    def create(self, value: int, *, bounded: bool) -> tuple[Any, bytes, str]:
        """Make a lock in the server; return the server's address and key, and the lock's id there."""
        this: Any = self  # _create is not in typeshed
        token, _ = this._create("served_lock", value, bounded)
        return token.address, self._key, token.id

    @staticmethod
    def _finalize_manager(process: Any, address: Any, *rest: Any) -> None:
        finalize: Any = BaseManager._finalize_manager  # type: ignore[attr-defined] # not in typeshed
        finalize(process, address, *rest)
        _remove_directory(address)  # if the manager was killed, it left its socket
        for client in list(_open_clients):
            if client.address == address:
                client.forget()


LockManager.register("served_lock", _ServedLock, create_method=False)


def _watch_parent() -> None:
    threading.Thread(target=_end_after_parent, name="parent-watch", daemon=True).start()


def _end_after_parent() -> None:
    """End the manager once the parent has ended and no worker is left that uses a lock."""
    while True:
        time.sleep(_PARENT_CHECK)
        server: Any = getattr(current_process(), "_manager_server", None)
        if server is not None and not server.clients and parent_is_gone():
            # The parent cannot do it.  Priority: after the listener removed its socket.
            Finalize(None, _remove_directory, (server.address,), exitpriority=-1)
            server.stop_event.set()
            return


def _remove_directory(address: Any) -> None:
    if _HAS_SOCKETS:
        shutil.rmtree(os.path.dirname(address), ignore_errors=True)


class ManagerClient:
    """A thread's connection to the manager, which has the locks that were taken through it.

    A call that is interrupted leaves its answer in the connection, which then takes no other
    call.  It stays open for the locks taken before, and is closed with the last of them: then
    the manager takes back what the interrupted call may have been granted.
    """

    def __init__(self, address: Any, authkey: bytes) -> None:
        self.address = address
        self.usable = True
        self._grants = 0
        self._connection = Client(address, authkey=authkey)
        dispatch(self._connection, None, "accept_connection", (current_process().name,))
        _open_clients.add(self)

    def call(self, ident: str, method: str, args: tuple[Any, ...]) -> Any:
        try:
            self._connection.send((ident, method, args))
            done, result = self._connection.recv()
        except BaseException:
            self.usable = False
            self._close_if_done()
            raise
        if not done:
            raise ValueError(result)
        return result

    def granted(self) -> None:
        self._grants += 1

    def given_back(self) -> None:
        self._grants -= 1
        self._close_if_done()

    def _close_if_done(self) -> None:
        if not self.usable and self._grants <= 0:
            self._connection.close()

    def forget(self) -> None:
        """Close the connection: it is a parent's, from before a fork, or its manager has ended."""
        self.usable = False
        self._connection.close()


class _ThreadClients(threading.local):
    def __init__(self) -> None:
        self.by_address: dict[Any, ManagerClient] = {}


_thread = _ThreadClients()
_open_clients: weakref.WeakSet[ManagerClient] = weakref.WeakSet()


def thread_client(address: Any, authkey: bytes) -> ManagerClient:
    """Return the connection of the running thread to the manager at *address*.

    Raises:
        OSError: There is no manager any more.
    """
    clients = _thread.by_address
    client = clients.get(address)
    if client is None or not client.usable:
        for ended in [address for address, client in clients.items() if not client.usable]:
            del clients[ended]
        client = clients[address] = ManagerClient(address, authkey)
    return client


def _after_fork() -> None:
    for client in list(_open_clients):
        client.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
