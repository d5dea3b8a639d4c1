"""How other threads reach the thread that waits in a selector."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Thread, current_thread

from poollock._backend.sockets import socket_pair

_POLL_INTERVAL = 0.1  # seconds between two checks whether the thread is alive


class Wakeup:
    """Calls for one thread to make, from any other thread.

    Attributes:
        sock: Readable once there is something to do.
    """

    def __init__(self) -> None:
        self.sock, self._sender = socket_pair()
        self.sock.settimeout(0)
        self._sender.settimeout(0)
        self._calls: deque[Callable[[], object]] = deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        """Have *call* called by the thread that waits."""
        self._calls.append(call)
        self.wake()

    def call_in(self, thread: Thread, call: Callable[[], object]) -> None:
        """Have *call* called by *thread*, the one that waits; wait for that, unless the thread has ended."""
        made = Event()
        self.call_soon_threadsafe(partial(_call_and_set, call, made))
        if thread is not current_thread():  # as it is in a finalizer
            while thread.is_alive() and not made.wait(_POLL_INTERVAL):
                pass

    def wake(self) -> None:
        """Have the thread see what has changed."""
        with suppress(OSError):  # full, so that it wakes anyway; or closed, because the thread has ended
            self._sender.send(b"\0")

    def drain(self) -> None:
        """Have ``sock`` wait for what comes from now on."""
        self.sock.recv(1 << 12)

    def run_pending(self) -> None:
        """Make the calls, in the order in which they came."""
        while self._calls:
            self._calls.popleft()()

    def close(self) -> None:
        """Make no more calls."""
        self._calls.clear()
        self.sock.close()
        self._sender.close()


def _call_and_set(call: Callable[[], object], made: Event) -> None:
    try:
        call()
    finally:
        made.set()
