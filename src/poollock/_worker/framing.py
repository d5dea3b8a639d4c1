"""Messages between the pool and a worker: a header, and a pickled object."""

from __future__ import annotations

import socket
import struct

HEADER = struct.Struct("=QQ")  # bytes that follow; a number
MESSAGE = (1 << 64) - 1  # the number of a frame that is neither a task nor an outcome
_READ_SIZE = 1 << 14  # bytes to read at once
_MAX_KEPT = 1 << 21  # bytes; a larger buffer is freed after the message that it was made for


def header(payload: bytes, number: int) -> bytes:
    """Return what comes before *payload* in a frame."""
    return HEADER.pack(len(payload), number)


class FrameReader:
    """Cuts what arrives on a socket into frames."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._view = memoryview(b"")  # allocated with the first message: a pool starts faster without it
        self._start = 0  # of what was read and not yet taken
        self._end: int = 0
        self._length = 0  # of the frame that begins at start, if it has arrived in part
        self.is_full = False  # there was no room for more, which may have arrived

    def receive(self) -> bool:
        """Read once what has arrived; return whether the stream goes on.

        Raises:
            BlockingIOError: The socket does not block, and nothing has arrived.
        """
        if self._start == self._end:
            self._start = self._end = 0
            if not _READ_SIZE <= len(self._view) <= _MAX_KEPT:
                self._view = memoryview(bytearray(_READ_SIZE))
        elif self._start + max(self._length, HEADER.size) > len(self._view) or self._end == len(self._view):
            rest = self._view[self._start : self._end]
            view = memoryview(bytearray(max(self._length, _READ_SIZE)))
            view[: len(rest)] = rest
            self._view, self._start, self._end = view, 0, len(rest)
        count = self._sock.recv_into(self._view[self._end :])
        self._end += count
        self.is_full = self._end == len(self._view)
        return count > 0

    @property
    def is_receiving(self) -> bool:
        """Whether a frame is incomplete, or the buffer so full that more may have arrived."""
        return self.is_full or self._length > 0

    @property
    def begun(self) -> int:
        """The number of the frame that has arrived in part, if it is a long one; else 0."""
        if self._length - HEADER.size <= _READ_SIZE:
            return 0
        _, number = HEADER.unpack_from(self._view, self._start)
        return int(number)

    def frames(self) -> list[tuple[int, memoryview]]:
        """Take the frames that are complete, each as its number and its payload.

        The payloads stay as they are until the next ``receive``.
        """
        found: list[tuple[int, memoryview]] = []
        while self._end - self._start >= HEADER.size:
            length, number = HEADER.unpack_from(self._view, self._start)
            stop = self._start + HEADER.size + length
            if stop > self._end:
                self._length = HEADER.size + length
                break
            found.append((number, self._view[self._start + HEADER.size : stop]))
            self._start = stop
            self._length = 0
        if self._start == self._end:
            self.is_full &= len(found) > 1  # else the buffer was made for that frame
            if len(self._view) > _MAX_KEPT:
                self._start = self._end = 0
                self._view = memoryview(b"")  # from here on only the payloads refer to it
        return found
