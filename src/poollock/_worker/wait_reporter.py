"""Tells the pool of a wait for a lock that lasts, and ends the wait if the pool finds that it is in vain."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from poollock._backend.signals import all_signals_blocked
from poollock._errors import DeadlockError
from poollock._locks.base import BaseLock

from .framing import MESSAGE

if TYPE_CHECKING:
    from .worker_socket import WorkerSocket

WAIT = 3  # the word with the number of the wait that the worker is in; 0 if it is in none
VICTIM = 4  # the word with the number of the wait that the pool wants it to end


class WaitReporter:
    """The observer of a worker's waits.

    Args:
        connection: The worker's socket.
        words: The words that the worker shares with the pool.
    """

    def __init__(self, connection: WorkerSocket, words: memoryview[int]) -> None:
        self._connection = connection
        self._words = words
        self._number = 0

    def begin(self, lock: BaseLock) -> None:
        """Tell the pool that the running task waits for *lock*."""
        self._number += 1
        self._words[WAIT] = self._number
        message = pickle.dumps((self._number, lock._identity, lock.description))
        with all_signals_blocked():  # a handler that raises in the middle would leave half a message
            self._connection.send(message, MESSAGE)

    def check(self) -> None:
        """Raise the error that the pool has for this wait, if it has one."""
        while self._words[VICTIM] == self._number:
            number, waits, pool_pid = pickle.loads(self._connection.receive_message())
            if number == self._number:  # else it is about an earlier wait, which ended by itself
                raise DeadlockError(waits, pool_pid)

    def end(self) -> None:
        """Let the pool know that the wait is over."""
        self._words[WAIT] = 0
