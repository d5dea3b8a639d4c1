"""The connections of a process to the locks in a manager process.

A connection is for one lock, and carries one thing at a time: a call, or a grant.  So an
interrupted call can close its connection, and costs no grant but its own.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from multiprocessing.managers import dispatch  # type: ignore[attr-defined] # not in typeshed
from typing import Any, TypeAlias

from .named_pipe import NamedPipe
from .protocol import CANCEL, MOST, RELEASE, REVOKED

HAS_SOCKETS = sys.platform != "win32"  # there the address is a named pipe

# Which lock it is: the address of its manager, the key that the manager asks for, its number there.
LockToken: TypeAlias = tuple[Any, bytes, int]

_LOOK = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)  # Windows: NamedPipe does not wait then


class _Handshake(Connection):
    """Speaks multiprocessing's protocol through a socket that belongs to somebody else."""

    def _close(self) -> None:
        pass


class _Socket(socket.socket):
    """A socket that is closed, without a ResourceWarning, when nothing refers to it any more."""

    # In C: what a signal handler raised in a method of Python would be lost.
    __del__ = socket.SocketType.close

    _poll: Any

    def wait(self, timeout: float) -> bool:
        """Return whether there is something to read, after *timeout* seconds at most."""
        return bool(self._poll(timeout * 1000))

    def connect_to(self, address: str) -> None:
        """Connect to *address*, for as long as that takes."""
        while True:
            self.connect(address)
            # If a signal arrives while the server has too many to accept, CPython takes a call that
            # has not connected for one that has.
            try:
                self.getpeername()
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise
            else:
                break
        poller = select.poll()
        poller.register(self, select.POLLIN)
        self._poll = poller.poll


class LockConnection:
    """A connection to one lock in a manager process.

    Args:
        token: Which lock it is.

    Attributes:
        answer: What has come of the answer to the last request.

    Raises:
        OSError: There is no manager any more, or this process may open no more files.
    """

    def __init__(self, token: LockToken) -> None:
        self.answer = b""
        address, authkey, number = token
        self._socket: Any  # a socket, or what can be used like one
        if HAS_SOCKETS:
            self._socket = _Socket(socket.AF_UNIX)
        else:
            self._socket = NamedPipe.connect(address)
        # Listed before it is connected: a child that another thread forks meanwhile closes its copy.
        _connections.add(self)
        try:
            if HAS_SOCKETS:
                self._socket.settimeout(None)  # whatever the default
                self._socket.connect_to(address)
                connection: Any = _Handshake(self._socket.fileno())
            else:
                connection = self._socket.connection
            answer_challenge(connection, authkey)
            deliver_challenge(connection, authkey)
            dispatch(connection, None, "connect", (number, os.getpid()))
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether this end has been closed."""
        return bool(self._socket.fileno() == -1)

    def is_revoked(self) -> bool:
        """Return whether what was granted through this connection has been released by somebody else."""
        try:
            # To ask first takes less time than the error that there is nothing to read.
            return self._socket.wait(0) and bool(self._socket.recv(1, _LOOK) == REVOKED)
        except (BlockingIOError, ConnectionError):  # nothing to read; or it has ended, as its next use tells
            return False

    def send(self, request: bytes) -> None:
        """Send a request, whose answer ``receive`` waits for."""
        self.answer = b""
        self._socket.sendall(request + b"\n")

    def receive(self, timeout: float | None = None) -> bool:
        """Wait for the answer, *timeout* seconds at most; return whether all of it has come."""
        while not self.answer.endswith(b"\n"):
            if timeout is not None and not self._socket.wait(timeout):
                return False
            message: bytes = self._socket.recv(MOST)
            if not message:
                raise EOFError("it has closed the connection")
            self.answer = (self.answer + message).lstrip(REVOKED)
        return True

    def release(self) -> None:
        """Give back what was granted through this connection."""
        self._socket.sendall(RELEASE + b"\n")

    def close(self) -> None:
        """Close it; the manager takes back what it has granted, or is about to grant, through it."""
        try:
            # A connection that ends without that is one whose process has died.
            with suppress(OSError):  # so has the manager
                self._socket.sendall(CANCEL + b"\n")
        finally:
            self._socket.close()

    def close_after_fork(self) -> None:
        """Close the copy that a forked process has; the connection stays its parent's."""
        self._socket.close()


class ThreadConnections:
    """The idle connections of one thread to one lock.

    One is enough for a thread that takes the lock and gives it back; the second is for what it
    asks while it has the lock.  They are closed when the thread ends, or the lock does.

    Args:
        token: Which lock it is.
    """

    def __init__(self, token: LockToken) -> None:
        self.thread = threading.get_ident()
        self._token = token
        self._idle: list[LockConnection] = []  # the last used comes last
        _all_connections[id(self)] = self

    def checkout(self) -> LockConnection | None:
        """Return a connection that is in no use, if there is one."""
        try:
            # A signal handler may use the lock between any two steps: it pops another.
            while (connection := self._idle.pop()).closed:
                pass
        except IndexError:
            return None
        return connection

    def checkin(self, connection: LockConnection) -> None:
        """Take back a connection that is in no use any more; any thread may call this."""
        self._idle.append(connection)

    def close_idle(self, address: Any) -> None:
        """Close the idle connections, if they are to the manager at *address*; any thread may call this."""
        with suppress(IndexError):
            while self._token[0] == address:
                self._idle.pop().close()


_connections: weakref.WeakSet[LockConnection] = weakref.WeakSet()  # of this process
_all_connections: weakref.WeakValueDictionary[int, ThreadConnections] = weakref.WeakValueDictionary()


class Connections(threading.local):
    """The connections of this process to one lock: ``own`` are those of the running thread.

    Args:
        token: Which lock it is.
    """

    def __init__(self, token: LockToken) -> None:  # called again in each thread
        self.own = ThreadConnections(token)


def close_idle(address: Any) -> None:
    """Close the connections to a manager that has ended, but for those in use: they end by themselves."""
    for reference in _all_connections.valuerefs():  # copied in one step: a thread may begin meanwhile
        connections = reference()
        if connections is not None:
            connections.close_idle(address)


def _after_fork() -> None:
    for connection in list(_connections):
        connection.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
