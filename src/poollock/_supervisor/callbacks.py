"""The thread that runs users' callbacks."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress


class Callbacks:
    """A thread for the users' callbacks, so that none of them keeps the pool from its work."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def is_current_thread(self) -> bool:
        """Whether the running thread is the one that runs the callbacks."""
        return threading.current_thread() is self._thread

    def put(self, call: Callable[[], object]) -> None:
        """Have *call* called, after those that were put before."""
        if self._stopped:
            call()
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="poollock-callbacks", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # this process gets no more threads, or Python is ending
                call()
                return
            self._thread = thread
        self._calls.put(call)

    def _run(self) -> None:
        for call in iter(self._calls.get, None):
            call()
            del call  # or its result would be in memory until the next one comes

    def stop(self) -> None:
        """End the thread once it has called what was put; what is put later is called at once."""
        self._stopped = True
        self._calls.put(None)


def report_exception() -> None:
    """Report the exception that is being handled as one that nobody has caught in this thread."""
    with suppress(BaseException):  # stderr may be closed, and the hook may be the user's
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
