"""A worker's end of the socket pair between it and the pool, and the words of memory that they share."""

from __future__ import annotations

import os
import socket
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic_ns
from typing import Any

from poollock._backend.process import POLL_INTERVAL, parent_is_gone
from poollock._backend.signals import ignore_sigint
from poollock._backend.sockets import socket_for_child, socket_from_parent
from poollock._locks import waiting

from .framing import MESSAGE, FrameReader, header

# The words that a worker shares with the pool, beside those of wait_reporter: the number of the task that it
# began last; the numbers, from the first up to the last, of tasks that the pool has revoked; and when the
# last task began, in nanoseconds of the monotonic clock, which all processes share.
LAST_BEGUN = 0
REVOKED_FROM = 1
REVOKED_TO = 2
BEGUN_AT = 5
WORDS = 6

_SMALL = 1 << 16  # bytes; a larger message is not copied to be sent in one call

_created: weakref.WeakSet[WorkerSocket] = weakref.WeakSet()  # by the pools of this process, for their workers
_own: weakref.WeakSet[WorkerSocket] = weakref.WeakSet()  # of this process, if it is a worker


class WorkerSocket:
    """A worker's end of the socket pair between it and the pool.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        _created.add(self)

    def __getstate__(self) -> Any:
        return socket_for_child(self.sock)

    def __setstate__(self, state: Any) -> None:
        # What spawn and forkserver start runs this once it has imported the main module.
        ignore_sigint()
        self.sock = socket_from_parent(state)
        with suppress(OSError):  # the pool has ended
            self.send(b"", MESSAGE)

    def open(self) -> None:
        """Make this the running process's socket: it keeps no other, and what it forks does not keep this."""
        for other in list(_created):
            if other is not self:
                other.sock.close()
        self.sock.settimeout(None)
        self._reader = FrameReader(self.sock)
        self._frames: deque[tuple[int, memoryview]] = deque()
        _own.add(self)

    def send(self, payload: bytes, number: int = 0) -> None:
        """Send a frame, and wait until the system has all of it."""
        start = header(payload, number)
        if len(payload) <= _SMALL:
            self.sock.sendall(start + payload)
        else:
            self.sock.sendall(start)
            self.sock.sendall(payload)

    def receive(self) -> memoryview:
        """Return the payload of the next frame."""
        while not self._frames:
            self._receive()
        return self._frames.popleft()[1]

    def receive_message(self) -> bytes:
        """Return the next message of the pool that is no task, in the middle of a task."""
        while True:
            # What has arrived is copied: the reader uses its memory again.
            self._frames = deque((number, memoryview(bytes(data))) for number, data in self._frames)
            for frame in self._frames:
                if frame[0] == MESSAGE:
                    self._frames.remove(frame)
                    return bytes(frame[1])
            self._receive()

    def tasks(self, words: memoryview[int], lock: Any) -> Iterator[memoryview]:
        """Yield the tasks that arrive, until the pool closes its end of the socket."""
        try:
            while True:
                while self._frames:
                    number, payload = self._frames.popleft()
                    if number != MESSAGE and _begin(number, words, lock):  # else the wait was over first
                        yield payload
                if self._reader.begun:  # a large task has arrived in part: from here on it is this worker's
                    words[BEGUN_AT] = monotonic_ns()
                    words[LAST_BEGUN] = self._reader.begun
                self._receive()
        except OSError:  # the pool has ended, or a task has closed the socket
            return

    def _receive(self) -> None:
        if not self._reader.receive():
            raise BrokenPipeError("the pool has ended")
        self._frames.extend(self._reader.frames())


def _begin(number: int, words: memoryview[int], lock: Any) -> bool:
    """Record that a task begins; return False if the pool has revoked it."""
    while not lock.acquire(timeout=POLL_INTERVAL):
        if parent_is_gone():
            raise BrokenPipeError
    try:
        if words[REVOKED_FROM] <= number < words[REVOKED_TO]:
            return False
        # First the time: the pool must not take that of the task before for this one's.
        words[BEGUN_AT] = monotonic_ns()
        words[LAST_BEGUN] = number
        return True
    finally:
        lock.release()


def _close_after_fork() -> None:
    """Close the socket in what a task forks: it would keep it open, and could answer in the worker's name."""
    for own in list(_own):
        own.sock.close()
    waiting.forget_observer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
