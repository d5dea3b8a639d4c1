"""What other threads tell the one that waits in a selector."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class Wakeup:
    """Calls for one thread to make, from any other.

    Attributes:
        sock: Readable once there is something to do.
    """

    def __init__(self) -> None:
        self.sock, self._waker = socket.socketpair()
        self.sock.settimeout(0)
        self._waker.settimeout(0)
        self._calls: deque[Callable[[], object]] = deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def post(self, call: Callable[[], object]) -> None:
        """Have *call* called."""
        self._calls.append(call)
        self.wake()

    def wake(self) -> None:
        """Have the thread look at what has changed."""
        with suppress(OSError):  # it has enough to wake it, or it has ended
            self._waker.send(b"\0")

    def read(self) -> None:
        """Make ``sock`` wait for what comes from now on."""
        self.sock.recv(1 << 12)

    def call_all(self) -> None:
        """Make the calls, in the order in which they came."""
        while self._calls:
            self._calls.popleft()()

    def close(self) -> None:
        """Make no more calls."""
        self._calls.clear()
        self.sock.close()
        self._waker.close()
