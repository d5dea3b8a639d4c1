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
from contextlib import AbstractContextManager
from typing import Any

# The threads of this process, as threading.active_count() counts them, which takes ten times as long.
threads: dict[int, threading.Thread] = vars(threading)["_active"]


class _Turn:
    """Whose turn it is in this process: for all logs, since a finalizer may write to another one.

    Attributes:
        taken: Whether a record is being written.
        later: What came meanwhile.
        mutex: What threads wait for.
    """

    __slots__ = ("_catching_up", "later", "mutex", "taken")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all that a parent's thread may have been doing."""
        self.mutex = threading.RLock()
        self.taken = False
        self.later: deque[Callable[[], object]] = deque()
        self._catching_up = False

    def catch_up(self) -> None:
        """Do what came meanwhile, and what comes while that is done: in a loop, each in its own turn.

        Raises:
            OSError: One could not be written; the others have been.
        """
        failure: BaseException | None = None
        while self.later and not self._catching_up:  # still: a signal handler may come at the end of it
            self._catching_up = True
            try:
                while self.later:
                    self.later.popleft()()
            except BaseException as error:  # noqa: BLE001 - it is raised below
                failure = failure or error
            finally:
                self._catching_up = False
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # it has this frame


turn = _Turn()


class Sink(ABC):
    """A log file, or a console, as this process has it open."""

    __slots__ = ()

    def append_in_turn(self, data: bytes) -> None:
        """Write one record, whole, when no other thread of this process does."""
        with turn.mutex:
            self.append(data)

    def append_within(self, lock: AbstractContextManager[Any]) -> Callable[[bytes], None]:
        """Return what does that while it holds the user's *lock*."""

        def append(data: bytes) -> None:
            with lock:
                self.append_in_turn(data)

        return append

    @abstractmethod
    def append(self, data: bytes) -> None:
        """Write one record, whole, in a process that has no other thread; or later, if it is not its turn.

        Should there be a thread that ``threading`` does not know of, the first one writes for both.
        """

    def close(self) -> None:
        """Close it, after the write in whose middle this is called, if it is."""
        with turn.mutex:
            turn.later.append(self.abandon)
            if not turn.taken:
                turn.catch_up()

    @abstractmethod
    def abandon(self) -> None:
        """Close it at once: after a fork, which no other thread has outlived."""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=turn.reset)
