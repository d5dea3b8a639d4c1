"""The users' callbacks."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Callbacks:
    """The thread that calls the users' callbacks, so that none of them keeps the pool waiting.

    Args:
        wake: Called when all that were due have been called.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.stopped = False
        self._due = 0  # counted by who puts
        self._done = 0  # counted by the thread

    @property
    def pending(self) -> bool:
        """Whether there are calls to come."""
        return self._due != self._done

    @property
    def is_calling(self) -> bool:
        """Whether the running thread is the one that makes the calls."""
        return threading.current_thread() is self._thread

    def put(self, call: Callable[[], object]) -> None:
        """Have *call* called."""
        self._due += 1
        if self.stopped:
            self._call(call)
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="callbacks", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # this process gets no more threads, or Python is ending
                self._call(call)
                return
            self._thread = thread
        self._calls.put(call)

    def _run(self) -> None:
        for call in iter(self._calls.get, None):
            self._call(call)

    def _call(self, call: Callable[[], object]) -> None:
        call()
        self._done += 1
        if not self.pending:
            self._wake()

    def stop(self) -> None:
        """End the thread once it has called what it was given; then call what is put where it is put."""
        self.stopped = True
        self._calls.put(None)


def reported(callback: Callable[[Any], object] | None) -> Callable[[Any], object] | None:
    """Return *callback* such that what it raises is reported, and no more."""
    if callback is None:
        return None

    def call(value: Any) -> None:
        try:
            callback(value)
        except BaseException:  # noqa: BLE001 - sys.exit() in it is no reason to leave the pool waiting
            report()

    return call


def report() -> None:
    """Report the error at hand as one that nobody has caught in this thread."""
    with suppress(BaseException):  # stderr is closed, say, or the hook is the user's
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
