"""How messages are written to a connection of Dask, and what the end of one says."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from ._lock_table import Message

_COALESCING_DELAY = 0.002  # seconds, as Dask's own streams have it


class Sender:
    """Writes messages to a connection, all that there are at once.

    Args:
        comm: The connection.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._buffer: list[Message] = []
        self._task: asyncio.Task[None] | None = None  # the event loop alone would not keep it
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def put(self, message: Message) -> None:
        """Send a message, if the connection is still there.  Only the event loop's thread may call this."""
        if self._stopped:
            return
        self._buffer.append(message)
        if self._task is None:
            self._task = asyncio.ensure_future(self._flush())

    def put_soon(self, message: Message) -> None:
        """Send a message within a few milliseconds, with those that come meanwhile: it costs less."""
        if self._stopped:
            return
        self._buffer.append(message)
        if self._task is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_COALESCING_DELAY, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._task is None and self._buffer:
            self._task = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        try:
            while self._buffer:
                messages, self._buffer = self._buffer, []
                await self._comm.write(messages)
        except OSError:  # the connection has ended, which who reads from it learns, too
            self._stopped = True
        finally:
            self._task = None

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True
        self._buffer.clear()

    async def drain(self) -> None:
        """Wait until all that was put has been written."""
        while self._task is not None:
            await self._task


def error_number(error: BaseException | None) -> int | None:
    """Return the number of the system's error that *error* comes from, if it comes from one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def was_closed(error: BaseException | None) -> bool:
    """Return whether the other side's system said that a connection is closed, rather than being silent."""
    return error_number(error) in (None, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
