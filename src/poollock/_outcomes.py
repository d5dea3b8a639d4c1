"""What becomes of the results that users wait for; and their callbacks."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any


class Outcomes:
    """The results that are waited for; the result handler alone sets them.

    Args:
        cache: The results, by number of the job.
    """

    def __init__(self, cache: dict[int, Any]) -> None:
        self._cache = cache
        self._callbacks = Callbacks()

    @property
    def pending(self) -> bool:
        """Whether a callback is still to be called."""
        return self._callbacks.pending > 0

    def awaited(self, job: int | None = None) -> bool:
        """Return whether somebody waits for *job*, or for anything."""
        return bool(self._cache) if job is None else job in self._cache

    def set(self, job: int, index: int, outcome: tuple[bool, Any]) -> None:
        """Set part *index* of *job*: whether it succeeded, and the result or the error."""
        result = self._cache.get(job)
        if result is None:
            return
        if getattr(result, "_callback", None) or getattr(result, "_error_callback", None):
            self._callbacks.put(partial(result._set, index, outcome))
        else:
            result._set(index, outcome)

    def set_length(self, results: Any, length: int) -> None:
        """Say how many results an iterator has."""
        if results._job in self._cache:
            results._set_length(length)

    def fail_all(self, make_error: Callable[[], Exception]) -> None:
        """Give an error to everybody who waits."""
        for job, result in list(self._cache.items()):
            if self._cache.pop(job, None) is not None:
                self._fail(result, make_error())

    def _fail(self, result: Any, error: Exception) -> None:
        result._pool = None
        if hasattr(result, "_cond"):  # an iterator
            with result._cond:
                result._items.append((False, error))
                result._index += 1
                result._length = result._index
                result._cond.notify_all()
            return
        result._success, result._value = False, error
        result._event.set()
        if result._error_callback:
            self._callbacks.put(partial(result._error_callback, error))

    def close(self) -> None:
        """Call no more callbacks than those that are due."""
        self._callbacks.stop()


class Callbacks:
    """The thread that calls the users' callbacks, so that none of them keeps the pool waiting."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.pending = 0

    def put(self, call: Callable[[], object]) -> None:
        """Have *call* called."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)
            self._thread.start()
        self.pending += 1
        self._calls.put(call)

    def _run(self) -> None:
        for call in iter(self._calls.get, None):
            with suppress(KeyError):  # a result that has failed meanwhile, because the pool has ended
                call()
            self.pending -= 1

    def stop(self) -> None:
        """End the thread once it has called what it was given."""
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
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
