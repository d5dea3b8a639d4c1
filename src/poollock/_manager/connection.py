"""The connections of a process to the managers of its locks."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from contextlib import suppress
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from multiprocessing.managers import dispatch  # type: ignore[attr-defined] # not in typeshed
from threading import get_ident
from typing import Any

HAS_SOCKETS = sys.platform != "win32"  # there the address is a named pipe


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
        self._connection: Any = _Socket() if HAS_SOCKETS else Client(address)
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


def close_idle(address: Any) -> None:
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
