"""LockManager: the process in which the locks of a manager_locked_pool live."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from functools import partial
from multiprocessing import current_process
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, Server
from multiprocessing.util import Finalize
from types import SimpleNamespace
from typing import Any, ClassVar

from poollock._backend.describe import describe, describe_exit
from poollock._backend.process import ProcessStartError, exit_code, parent_is_gone
from poollock._errors import ManagerDiedError
from poollock._typing import override

from .connection import HAS_SOCKETS, close_idle

if sys.platform != "win32":
    from poollock._backend.popen import prepare

_PARENT_CHECK = 0.25  # seconds


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
        context: Any = SimpleNamespace(Process=partial(_make_process, ctx))  # all that is asked of it
        super().__init__(authkey=self._key, ctx=context)

    @override
    def start(self) -> None:  # type: ignore[override] # one way to start it
        if HAS_SOCKETS:
            self._address = os.path.join(tempfile.mkdtemp(prefix="poollock-"), "socket")
        try:
            super().start(initializer=_watch_parent)
        except BaseException as error:
            _remove_directory(self.address)
            if isinstance(error, (ProcessStartError, ConnectionError, EOFError)):
                raise self._ended_early(error) from error
            raise

    def _ended_early(self, error: BaseException) -> ManagerDiedError:
        this: Any = self  # _process is not in typeshed
        if isinstance(error, ProcessStartError) or not this._process._popen:
            code = getattr(error, "code", None)
        else:
            code = exit_code(this._process)
        return ManagerDiedError(
            f"the manager process that {describe()} started {describe_exit(code)}, before it was ready. "
            "It must be able to import the main module, and needs memory to start"
        )

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
        close_idle(address)


LockManager.register("served_lock", _ServedLock, create_method=False)


def _make_process(ctx: Any, **kwds: Any) -> Any:
    process = ctx.Process(**kwds)
    if sys.platform != "win32":
        prepare(process)
    return process


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
    if HAS_SOCKETS:
        shutil.rmtree(os.path.dirname(address), ignore_errors=True)
