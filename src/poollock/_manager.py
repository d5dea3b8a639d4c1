"""LockManager: the process in which the locks of a manager_locked_pool live, and the way to it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, Server, dispatch  # type: ignore[attr-defined] # not in typeshed
from multiprocessing.util import Finalize
from threading import get_ident
from typing import Any, ClassVar

from ._process import parent_is_gone
from ._typing import override

_PARENT_CHECK = 0.25  # seconds
_HAS_SOCKETS = sys.platform != "win32"  # there the address is a named pipe


class _ServedLock:
    """A lock or semaphore inside the manager process; each grant belongs to a client's connection.

    Whoever takes a grant out of the dict releases the lock: that is one step, so no grant is
    given back twice.
    """

    def __init__(self, value: int, bounded: bool) -> None:  # noqa: FBT001 - made by BaseManager._create
        self._lock = threading.Lock() if bounded else threading.Semaphore(value)
        self._value = value
        self._bounded = bounded
        self._grants: dict[Any, Any] = {}  # grant: connection, pid
        self._abandoned = False
        self._withdrawn: set[int] = set()  # pids

    def acquire(
        self,
        client: Connection,
        pid: int,
        grant: Any,
        block: bool,  # noqa: FBT001 - multiprocessing's
        timeout: float | None,
    ) -> bool:
        if timeout is None and block:
            taken = self._lock.acquire()
        elif timeout is None or timeout <= 0 or not block:
            taken = self._lock.acquire(blocking=False)
        else:
            taken = self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        if taken:
            self._grants[grant] = (client, pid)
        return taken

    def release(self, _client: Connection, grant: Any) -> None:
        """Give a grant back; without one, anybody's, as multiprocessing allows."""
        if any(map(self.take_back, [grant] if grant else list(self._grants))):
            return
        if self._bounded:
            raise ValueError("semaphore or lock released too many times")
        if not grant:
            self._value += 1
            self._lock.release()

    def take_back(self, grant: Any) -> bool:
        """Take a grant back, if it has not been; return whether it had not."""
        if not self._grants.pop(grant, None):
            return False
        self._lock.release()
        return True

    def withdraw(self, client: Connection) -> None:
        """Take back what *client* has, whose connection ended."""
        for grant, (owner, pid) in list(self._grants.items()):
            if owner is client:
                self._abandoned = True  # before the next one has it
                if self.take_back(grant):
                    self._withdrawn.add(pid)

    def reclaim(self, _client: Connection, pid: int) -> bool:
        """Take back what the process *pid*, which has died, has; return whether it died having it."""
        for owner in {owner for owner, owner_pid in list(self._grants.values()) if owner_pid == pid}:
            self.withdraw(owner)
        had = pid in self._withdrawn
        self._withdrawn.discard(pid)
        return had

    def state(self, _client: Connection) -> tuple[int, tuple[int, ...], bool]:
        grants = list(self._grants.values())
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
                except Exception as error:  # noqa: BLE001 - it is the caller's
                    reply = (False, error)
                try:
                    conn.send(reply)
                except OSError:
                    if method == "acquire" and reply == (True, True):  # it ended waiting, not holding
                        lock.take_back(args[1])
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

    def end(self) -> None:
        """End the process, even if Ctrl-C comes between: this one waits for it when it exits."""
        try:
            self.shutdown()
        except BaseException:
            this: Any = self  # _process is not in typeshed
            this._process.kill()
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
        _close_idle(address)


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


class _Socket(Connection):
    """A connection that is made after it is known, and whose descriptor is forgotten before it is closed.

    So a child that is forked in another thread meanwhile closes its copy, and nothing else.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(None)  # whatever the default
        self._pid = os.getpid()
        super().__init__(self._socket.fileno())

    def connect(self, address: str) -> None:
        self._socket.connect(address)

    def _close(self) -> None:
        if os.getpid() == self._pid:
            with suppress(OSError):  # the manager has ended, or was never reached
                self._socket.shutdown(socket.SHUT_RDWR)  # for copies, too
        self._socket.close()

    def abandon(self) -> None:
        """Close the copy of it that a forked process has."""
        self._handle = None
        with suppress(OSError):
            self._socket.close()


class ManagerClient:
    """A connection to the manager, for one call at a time, and what was granted through it.

    When a signal handler raises in the middle of a call, an answer, or a part of one, is still
    to come: the connection is not used again.  It ends with the object, and the manager takes
    back what it may have granted; so no wait for a lock uses a connection that has one already.
    """

    def __init__(self, address: Any, authkey: bytes) -> None:
        self.holds: Any = None  # a grant that is not given back yet
        self._address = address
        self._caller: int | None = get_ident()  # the thread that has it for its call
        self._is_spoiled = False
        self._connection: Any = _Socket() if _HAS_SOCKETS else Client(address)
        try:
            _clients.add(self)  # from here on, a child that is forked closes it
            if isinstance(self._connection, _Socket):
                self._connection.connect(address)
            answer_challenge(self._connection, authkey)
            deliver_challenge(self._connection, authkey)
            dispatch(self._connection, None, "accept_connection", (current_process().name,))
        except BaseException:
            self.close()
            raise
        _idle.setdefault(address, [])

    def call(self, ident: str, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of a lock in the manager; afterwards the client is anybody's."""
        self._connection.send((ident, method, args))
        done, result = self._connection.recv()
        if method == "acquire" and done and result:
            self.holds = args[1]  # before another thread can use it for a wait
        self.rest()
        if not done:
            try:
                raise result
            finally:
                del result  # it has this frame
        return result

    def reserve(self) -> bool:
        """Return whether the client is now the caller's for its call, or for `rest`."""
        try:
            _idle[self._address].remove(self)
        except (KeyError, ValueError):  # another thread has it
            return False
        self._caller = get_ident()
        if self._is_spoiled:
            self.close()
            return False
        return True

    def rest(self) -> None:
        """Have no caller any more."""
        self._caller = None
        _idle.get(self._address, []).append(self)
        if self._is_spoiled:
            self.close()

    def withdraw(self, grant: Any) -> None:
        """Have the manager take back *grant*, if it has been granted and not given back."""
        if self.holds == grant or self._caller == get_ident():  # else it is of use to others
            self.close()

    def close(self) -> None:
        """Close the connection: the manager takes back what was taken through it.

        While another thread has the client, that one does it at the end of its call.
        """
        self._is_spoiled = True
        with suppress(KeyError, ValueError):
            _idle[self._address].remove(self)
        if self._caller in {None, get_ident()}:
            self._connection.close()


_clients: weakref.WeakSet[ManagerClient] = weakref.WeakSet()  # of this process
_idle: dict[Any, list[ManagerClient]] = {}  # those that are in no call, by the address of their manager


def take_client(address: Any, authkey: bytes, *, to_wait: bool = False) -> ManagerClient:
    """Return a client for one call, one that has no lock if the call may wait for a lock.

    Raises:
        OSError: There is no manager any more.
    """
    for client in [*_idle.get(address, [])]:
        if not (to_wait and client.holds) and client.reserve():
            if not (to_wait and client.holds):  # still
                return client
            client.rest()
    return ManagerClient(address, authkey)


def _close_idle(address: Any) -> None:
    """Close the connections to a manager that ended; those in a call end with it."""
    idle = _idle.pop(address, [])
    while idle:
        with suppress(IndexError):  # another thread has taken it
            idle.pop().close()


def _after_fork() -> None:
    for client in list(_clients):
        client._connection.abandon()  # the connection is the parent's
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
