"""What a record goes to: one at a time in each process, whoever in it writes.

Threads wait for each other.  A signal handler, or a finalizer, that writes in the middle of a
write of its own thread cannot wait: what it writes comes right after.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial

# The threads of this process, as threading.active_count() counts them, which takes ten times as long.
threads: dict[int, threading.Thread] = vars(threading)["_active"]


class _Turn:
    """Whose turn it is in this process: for all logs, since a finalizer may write to another one."""

    __slots__ = ("later", "mutex", "taken")

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self.taken = False
        self.later: deque[Callable[[], object]] = deque()

    def catch_up(self) -> None:
        """Do what came meanwhile, and what comes while that is done."""
        while self.later and not self.taken:
            self.taken = True
            try:
                if self.later:  # still: a signal handler may have come before that
                    self.later.popleft()()
            finally:
                self.taken = False


_turn = _Turn()


class Sink(ABC):
    """A log file, or a console, as this process has it open."""

    __slots__ = ()

    def append_in_turn(self, data: bytes) -> None:
        """Write one record, whole, when no other thread of this process does."""
        with _turn.mutex:
            self.append(data)

    def append(self, data: bytes) -> None:
        """Write one record, whole, in a process that has no other thread.

        Should there be one that ``threading`` does not know of, the first one writes for both.
        """
        turn = _turn
        if turn.taken:
            turn.later.append(partial(self._write, data))
            return
        turn.taken = True
        try:
            self._write(data)
        finally:
            turn.taken = False  # before the look: a signal handler may come between the two
            if turn.later:
                turn.catch_up()

    def close(self) -> None:
        """Close it, after the write in whose middle this is called, if it is."""
        with _turn.mutex:
            if _turn.taken:
                _turn.later.append(self.abandon)
            else:
                self.abandon()

    @abstractmethod
    def _write(self, data: bytes) -> None: ...

    @abstractmethod
    def abandon(self) -> None:
        """Close it at once: after a fork, which no other thread has outlived."""


def _after_fork() -> None:
    global _turn  # noqa: PLW0603 - a thread of the parent may have had it
    _turn = _Turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
