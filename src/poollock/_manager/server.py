"""LockServer: what runs in the manager process."""

from __future__ import annotations

import itertools
import math
import os
import selectors
import shutil
import socket
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.managers import Server
from multiprocessing.util import Finalize
from time import monotonic
from typing import Any

from poollock._backend.process import parent_is_gone

from .connection import HAS_SOCKETS
from .named_pipe import NamedPipe, PipeSelector
from .protocol import ACQUIRE, CANCEL, MOST, NO, RELEASE, YES
from .served_lock import Client, ServedLock

_PARENT_CHECK = 0.25  # seconds
_AGAIN = [RELEASE, ACQUIRE + b"inf"]  # what a client sends that releases a lock and takes it at once


class LockServer(Server):
    """Serves every lock in one thread, and takes back what a client has when its connection ends.

    The standard server accepts and authenticates each connection, in a thread that ends then.

    A release waits for no answer.  So each request whose answer may depend on what came before,
    from whomever, is served only when all that has arrived by then has been read.
    """

    public: Any = ("shutdown", "create_lock", "connect")  # what the standard server may call

    stop_event: threading.Event

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._locks: dict[int, ServedLock] = {}
        self._numbers = itertools.count()
        self._clients: set[Client] = set()
        self._deadlines: dict[Client, float] = {}  # of those that wait, or have waited, for a limited time
        self._deferred: dict[Client, bytes] = {}
        # Another thread adds to it while it selects: epoll and kqueue allow that.
        self._selector: Any = selectors.DefaultSelector() if HAS_SOCKETS else PipeSelector()
        _allow_many_files()

    def create_lock(self, connection: Connection, value: int, bounded: bool) -> int:  # noqa: FBT001 - sent as it is
        """Make a lock; return its number."""
        number = next(self._numbers)
        self._locks[number] = ServedLock(value, bounded=bounded)
        return number

    def connect(self, connection: Connection, number: int, pid: int) -> None:
        """Serve the process *pid*, which will use the lock *number*."""
        # A copy: the standard server closes *connection* when it has answered this.
        sock: Any = (
            socket.socket(fileno=os.dup(connection.fileno())) if HAS_SOCKETS else NamedPipe.copy(connection)
        )
        client = Client(sock, self._locks[number], pid)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def accepter(self) -> None:
        """Accept connections, and serve the locks meanwhile."""
        standard: Any = super()
        threading.Thread(target=self._serve_locks, name="locks", daemon=True).start()
        standard.accepter()

    def _serve_locks(self) -> None:
        try:
            while not self.stop_event.is_set():
                self._serve_requests()
        finally:
            self.stop_event.set()  # had this failed, no manager is better than one that never answers

    def _serve_requests(self) -> None:
        """Wait for messages, or for something else to do, and do it."""
        due = list(self._deferred)
        next_deadline = min(self._deadlines.values(), default=math.inf)
        timeout = 0 if due else max(0, min(next_deadline - monotonic(), _PARENT_CHECK))
        ready = self._selector.select(timeout)
        for key, _ in ready:
            self._read(key.data)
        for client in due:
            if client in self._deferred:
                self._serve(client, *self._deferred.pop(client).split())
        if next_deadline < math.inf:
            self._end_waits()
        if not ready and not self._clients and parent_is_gone():
            # The parent cannot remove it.  Priority: after the listener has removed its socket.
            Finalize(None, remove_directory, (self.address,), exitpriority=-1)
            self.stop_event.set()

    def _read(self, client: Client) -> None:
        """Read what *client* has sent, and serve what need not be deferred."""
        try:
            message = client.sock.recv(MOST)
        except OSError:
            message = b""
        if not message:
            self._end(client)
            return
        *lines, client.unread = (client.unread + message).split(b"\n")
        if lines == _AGAIN and client.lock.keep(client):
            self._deadlines.pop(client, None)
            return
        for line in lines:
            if line == RELEASE:
                client.lock.release(client)
            elif line == CANCEL:
                self._deferred.pop(client, None)
                client.lock.cancel(client)
            elif not line.startswith(ACQUIRE) or not self._acquire(client, float(line[len(ACQUIRE) :])):
                self._deferred[client] = line

    def _acquire(self, client: Client, seconds: float) -> bool:
        """Grant the lock to *client*, or have it wait; return False if there is no time to wait."""
        self._deadlines.pop(client, None)
        if client.lock.acquire(client):
            return True
        if not seconds > 0:
            return False
        client.lock.enqueue(client)
        if seconds < math.inf:
            self._deadlines[client] = monotonic() + seconds
        return True

    def _serve(self, client: Client, method: bytes, argument: bytes = b"") -> None:
        """Serve a request that was deferred."""
        lock = client.lock
        if method == b"acquire":
            if not lock.acquire(client):
                client.answer(NO)
        elif method == b"release_any":
            client.answer(YES if lock.release_any() else NO)
        elif method == b"state":
            client.answer(b" ".join(b"%d" % number for number in lock.state()) + b"\n")
        elif method == b"mark_consistent":
            lock.mark_consistent()
            client.answer(YES)
        elif method == b"recover":
            pid = int(argument)
            # Their connections may be open: in a process that the dead one forked, and that has copies.
            for other in self._clients.copy():
                if other.pid == pid and other.lock is lock:
                    self._end(other)
            client.answer(YES if lock.has_died_holding(pid) else NO)

    def _end_waits(self) -> None:
        """End the waits whose time is over."""
        now = monotonic()
        for client in [client for client, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[client]
            client.lock.give_up(client)

    def _end(self, client: Client) -> None:
        """Take back what *client* has, and close its connection."""
        client.lock.withdraw(client)
        self._clients.discard(client)
        self._deferred.pop(client, None)
        self._deadlines.pop(client, None)
        with suppress(KeyError):  # ``connect`` is about to register it
            self._selector.unregister(client.sock)
        client.sock.close()


def _allow_many_files() -> None:
    """Let this process open as many files as the system lets it: each thread of each worker needs one."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit, macOS none that can be set
        import resource  # noqa: PLC0415 - not on Windows

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def remove_directory(address: Any) -> None:
    """Remove the directory of the socket at *address*."""
    if HAS_SOCKETS:
        shutil.rmtree(os.path.dirname(address), ignore_errors=True)
