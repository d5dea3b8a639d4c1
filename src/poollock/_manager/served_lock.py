"""A lock as the manager keeps it: who has it, and who waits for it."""

from __future__ import annotations

from time import monotonic
from typing import Any

from .protocol import NO, REVOKED, YES

# Seconds for which a client may take the lock again and again while others wait.  Each change of
# holder needs the next one to be scheduled, which takes long on a busy machine.
_SLICE = 0.001


class Client:
    """The server's end of a connection, which is for one lock and carries one grant at most.

    Args:
        sock: The connection.
        lock: The lock that it is for.
        pid: The process at the other end.

    Attributes:
        unread: The beginning of a request whose rest has not arrived.
    """

    __slots__ = ("lock", "pid", "sock", "unread")

    def __init__(self, sock: Any, lock: ServedLock, pid: int) -> None:
        self.sock = sock
        self.lock = lock
        self.pid = pid
        self.unread = b""

    def answer(self, answer: bytes) -> bool:
        """Answer the client's request; return False if it has ended, or given up."""
        try:
            self.sock.sendall(answer)
        except OSError:
            return False
        return True


class ServedLock:
    """A lock or a semaphore.  Only the thread that serves the clients uses it.

    Args:
        value: How many can have it at once.
        bounded: Whether it is an error to release it more often than it was taken.
    """

    def __init__(self, value: int, *, bounded: bool) -> None:
        self._free = value
        self._bounded = bounded
        # The oldest comes first; the values mean nothing.
        self._holders: dict[Client, None] = {}
        self._waiters: dict[Client, None] = {}
        self._abandoned = False
        self._died_holding: set[int] = set()  # pids; each is told once
        self._slice_end = 0.0

    def acquire(self, client: Client) -> bool:
        """Grant the lock to *client*, if it is free; return whether it was."""
        if not self._free:
            return False
        if self._grant(client):
            self._free -= 1
        return True

    def enqueue(self, client: Client) -> None:
        """Grant the lock to *client*, which did not get it, when its turn comes."""
        self._waiters[client] = None

    def give_up(self, client: Client) -> None:
        """End the wait of *client*, if it waits: its time is over."""
        if client in self._waiters:
            del self._waiters[client]
            client.answer(NO)

    def release(self, client: Client) -> None:
        """Release the lock for *client*, which had it and may have lost it to ``release_any``."""
        if client in self._holders:
            del self._holders[client]
            self._pass_on()
        elif not self._bounded:
            self._pass_on()

    def release_any(self) -> bool:
        """Release the lock for somebody who does not have it; return False if that is an error."""
        holder = next(iter(self._holders), None)
        if holder is not None:
            del self._holders[holder]
            holder.answer(REVOKED)
        elif self._bounded:
            return False
        self._pass_on()
        return True

    def keep(self, client: Client) -> bool:
        """Release the lock for *client* and grant it again; return False if it is somebody else's turn."""
        if client not in self._holders or (self._waiters and monotonic() > self._slice_end):
            return False
        return client.answer(YES)

    def cancel(self, client: Client) -> None:
        """Take back what *client* has, or end its wait; it wants neither."""
        self._waiters.pop(client, None)
        if client in self._holders:
            self.release(client)

    def withdraw(self, client: Client) -> None:
        """Take back what *client* has, or end its wait; its connection has ended."""
        if client in self._holders:
            self._abandoned = True  # before the next one has it
            self._died_holding.add(client.pid)
        self.cancel(client)

    def has_died_holding(self, pid: int) -> bool:
        """Return whether the process *pid* has died having the lock; each death is told once."""
        told = pid in self._died_holding
        self._died_holding.discard(pid)
        return told

    def state(self) -> tuple[int, ...]:
        """Return how many can have the lock now, whether it was abandoned, and the holders' pids."""
        return self._free, self._abandoned, *(client.pid for client in self._holders)

    def mark_consistent(self) -> None:
        """Clear the mark of a holder's death."""
        self._abandoned = False

    def _pass_on(self) -> None:
        """Grant the lock, which somebody has released, to the next who waits for it."""
        while self._waiters:
            client = next(iter(self._waiters))
            del self._waiters[client]
            if self._grant(client):
                return
        self._free += 1

    def _grant(self, client: Client) -> bool:
        if not client.answer(YES):
            return False
        self._holders[client] = None
        self._slice_end = monotonic() + _SLICE
        return True
