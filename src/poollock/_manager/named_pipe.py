"""Windows: named pipes, with as much of a socket and of a selector as the manager uses."""

from __future__ import annotations

import selectors
import socket
from multiprocessing import connection, reduction
from multiprocessing.connection import Client, Pipe, wait
from multiprocessing.context import BaseContext, get_spawning_popen
from typing import Any

_winapi: Any = vars(connection).get("_winapi")  # on Windows


class NamedPipe:
    """A named pipe that can be used like a socket.

    Args:
        connection: The pipe as multiprocessing has it.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    def connect(cls, address: Any) -> NamedPipe:
        """Return a pipe to the server at *address*."""
        return cls(Client(address))

    @classmethod
    def copy(cls, connection: Any) -> NamedPipe:
        """Return a pipe that stays open when *connection* is closed."""
        standard: Any = reduction  # duplicate() is there on Windows
        return cls(type(connection)(standard.duplicate(connection.fileno())))

    def fileno(self) -> int:
        """Return the handle, -1 if it is closed."""
        return -1 if self.connection.closed else int(self.connection.fileno())

    def sendall(self, message: bytes) -> None:
        """Send *message*."""
        self.connection.send_bytes(message)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Wait for a message; with MSG_PEEK, do not wait, and leave it where it is.

        Raises:
            BlockingIOError: There is none to be left.
            ConnectionError: The other end is closed.
        """
        if flags & socket.MSG_PEEK:
            start: bytes = _winapi.PeekNamedPipe(self.connection.fileno(), size)[0]
            if not start:
                raise BlockingIOError
            return start
        try:
            message: bytes = self.connection.recv_bytes()
        except EOFError:
            return b""
        return message

    def wait(self, timeout: float) -> bool:
        """Return whether there is a message, after *timeout* seconds at most."""
        return bool(self.connection.poll(timeout))

    def close(self) -> None:
        """Close the pipe."""
        self.connection.close()


class PipeSelector:
    """A selector for named pipes, which ``selectors`` does not know."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}
        self._awake, self._wake = Pipe(duplex=False)

    def register(self, pipe: NamedPipe, events: int, data: Any) -> None:
        """Have ``select`` watch *pipe*; another thread may call this meanwhile."""
        self._keys[pipe.connection] = selectors.SelectorKey(pipe, 0, events, data)
        self._wake.send_bytes(b"")

    def unregister(self, pipe: NamedPipe) -> None:
        """Have ``select`` watch *pipe* no more."""
        del self._keys[pipe.connection]

    def select(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the pipes that can be read, after *timeout* seconds at most."""
        ready = wait([*self._keys.copy(), self._awake], timeout)
        if self._awake in ready:
            self._awake.recv_bytes()
        return [(self._keys[each], selectors.EVENT_READ) for each in ready if each in self._keys]


class PipeContext:
    """What BaseManager needs of a context: its process tells its address through a pipe, or ends.

    multiprocessing keeps a copy of that pipe's end open until the process fetches it.  If the process ended
    before, because it cannot import the main module say, BaseManager would wait for its address for ever.

    Args:
        ctx: The context that starts the process.
    """

    def __init__(self, ctx: BaseContext) -> None:
        self._ctx: Any = ctx

    def Process(self, *, target: Any, args: tuple[Any, ...]) -> Any:  # noqa: N802 - a context's
        """Return a process that has the pipe among its *args*, once it is started, to itself."""
        pipe: Any = vars(connection)["PipeConnection"]
        return self._ctx.Process(
            target=target,
            args=tuple(_PipeForChild(each) if isinstance(each, pipe) else each for each in args),
        )


class _PipeForChild:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __reduce__(self) -> tuple[Any, ...]:
        popen: Any = get_spawning_popen()
        return self._writer.__class__, (popen.duplicate_for_child(self._writer.fileno()), False)
