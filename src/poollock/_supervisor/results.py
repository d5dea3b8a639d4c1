"""What a user waits for: the results of the pool's methods, by the standard pool's names."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from queue import Empty, SimpleQueue
from types import GenericAlias
from typing import Any, Protocol, TypeAlias, cast

from poollock._backend.signals import WAIT_SLICE
from poollock._typing import Self, override

from .callbacks import report_exception

# Which results the threads of this process wait for without a time limit, by the thread's ident.
waiting_threads: dict[int, Result | None] = {}

Callback: TypeAlias = "Callable[[Any], object] | None"


class Result(Protocol):
    """Where the outcomes of a job's tasks go.  Only the thread of the event loop calls these methods."""

    @abstractmethod
    def add(self, index: int, success: bool, value: Any) -> None:  # noqa: FBT001 - half of an outcome
        """Take in the outcome of a task."""

    @abstractmethod
    def finish(self) -> Callable[[], object] | None:
        """Decide the result, when all outcomes are in; return the callback that is due before ``release``."""

    @abstractmethod
    def fail(self, error: BaseException) -> Callable[[], object] | None:
        """Decide that the result is *error*, whatever is in; return the callback that is due."""

    @abstractmethod
    def release(self) -> None:
        """Let go whoever waits for the result."""


class _NoResult(Result):
    """What has the place of a result that was decided."""

    @override
    def add(self, index: int, success: bool, value: Any) -> None:
        pass

    @override
    def finish(self) -> None:
        pass

    @override
    def fail(self, error: BaseException) -> None:
        pass

    @override
    def release(self) -> None:
        pass


NO_RESULT = _NoResult()


class ApplyResult(multiprocessing.pool.ApplyResult):  # type: ignore[type-arg] # not generic at run time before 3.9
    """The result of one call.

    Args:
        callback: Called with the result before whoever waits gets it.
        error_callback: Called with the error instead.
    """

    def __init__(self, callback: Callback, error_callback: Callback) -> None:
        # Not the standard constructor: nothing of what the standard class keeps is used.
        self._callback = callback
        self._error_callback = error_callback
        self._released = threading.Event()
        self._success = False
        self._value: Any = None

    @override
    def ready(self) -> bool:
        """Return whether the call has completed."""
        return self._released.is_set()

    @override
    def successful(self) -> bool:
        """Return whether the call completed without raising.

        Raises:
            ValueError: It has not completed.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    @override
    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has completed, *timeout* seconds at most."""
        if timeout is not None or self._released.is_set():
            self._released.wait(timeout)
            return
        with _waiting(self):
            while not self._released.wait(WAIT_SLICE):
                pass

    @override
    def get(self, timeout: float | None = None) -> Any:
        """Return the result, waiting *timeout* seconds for it at most.

        Raises:
            multiprocessing.TimeoutError: There is no result yet.
            Exception: What the call raised, or an error of the pool's own: see ``LockedPool``.
        """
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        value = self._value
        try:
            if self._success:
                return value
            raise value
        finally:
            # The error leads to this frame: without these names it does not lead back to itself.
            del self, value

    def add(self, index: int, success: bool, value: Any) -> None:  # noqa: FBT001 - see Result
        """Take in the outcome of the call."""
        self._success, self._value = success, value

    def finish(self) -> Callable[[], object] | None:
        """Decide the result; return the callback that is due."""
        callback = self._callback if self._success else self._error_callback
        self._callback = self._error_callback = None
        return None if callback is None else partial(_call, callback, self._value)

    def fail(self, error: BaseException) -> Callable[[], object] | None:
        """Decide that the result is *error*; return the callback that is due."""
        self._success, self._value = False, error
        return self.finish()

    def release(self) -> None:
        """Let go whoever waits."""
        self._released.set()


class MapResult(ApplyResult, multiprocessing.pool.MapResult):  # type: ignore[type-arg] # the same
    """The result of ``map`` or ``starmap``: a list, in the order of the items."""

    def __init__(self, callback: Callback, error_callback: Callback) -> None:
        super().__init__(callback, error_callback)
        self._success = True
        self._chunks: dict[int, list[Any]] = {}

    @override
    def add(self, index: int, success: bool, value: Any) -> None:
        if success:
            self._chunks[index] = value
        elif self._success:  # the first error is the one that is raised
            self._success, self._value = False, value

    @override
    def finish(self) -> Callable[[], object] | None:
        if self._success:
            self._value = list(chain.from_iterable(map(self._chunks.__getitem__, range(len(self._chunks)))))
        self._chunks = {}
        return super().finish()


class ResultQueue:
    """The results of ``imap``, between the event loop and the iterator that the user has.

    Args:
        ordered: Whether the results come in the order of the items.
        chunked: Whether a task's result is a list, of the results of its items.
        buffersize: How many items at most may have been taken and not yielded; None is no limit.
    """

    def __init__(self, *, ordered: bool, chunked: bool, buffersize: int | None = None) -> None:
        self._room = None if buffersize is None else threading.Semaphore(buffersize)
        self._ended = False
        self._ordered = ordered
        self._chunked = chunked
        self._next = 0  # the task whose outcome is next in order
        self._early: dict[int, tuple[bool, Any]] = {}
        # In C: a signal handler or a finalizer may use it in the middle of a call of its own thread.
        self._ready: SimpleQueue[tuple[bool, Any] | None] = SimpleQueue()  # None is the end

    def add(self, index: int, success: bool, value: Any) -> None:  # noqa: FBT001 - see Result
        """Take in the outcome of a task."""
        if not self._ordered:
            self._put(success, value)
            return
        if index != self._next:
            self._early[index] = success, value
            return
        self._put(success, value)
        self._next += 1
        while self._next in self._early:
            self._put(*self._early.pop(self._next))
            self._next += 1

    def _put(self, success: bool, value: Any) -> None:  # noqa: FBT001 - see Result
        if self._chunked and success:
            for item in value:
                self._ready.put((True, item))
        else:
            self._ready.put((success, value))

    def finish(self) -> None:
        """Say that no more results come."""
        self._ready.put(None)

    def fail(self, error: BaseException) -> None:
        """Say that *error* comes, after what has come so far, and then nothing more."""
        self._ready.put((False, error))
        self.finish()

    def release(self) -> None:
        """Let go a thread that waits for room; whoever waits for a result has seen the end."""
        self._ended = True
        self.make_room()

    def wait_for_room(self) -> bool:
        """Wait until one more item may be taken; return False if nobody wants it any more."""
        if self._room is not None:
            self._room.acquire()
        return not self._ended

    def make_room(self) -> None:
        """Let one more item be taken."""
        if self._room is not None:
            self._room.release()

    def _wait(self) -> tuple[bool, Any] | None:
        with _waiting(self):
            while True:
                with suppress(Empty):
                    return self._ready.get(timeout=WAIT_SLICE)

    def get(self, timeout: float | None) -> tuple[bool, Any] | None:
        """Return whether an item succeeded, and its result or its error; None at the end.

        Raises:
            multiprocessing.TimeoutError: None has come in time.
        """
        try:
            if timeout is None and self._ready.empty():
                outcome = self._wait()
            else:
                outcome = self._ready.get(timeout=timeout and max(0, timeout))
        except Empty:
            raise multiprocessing.TimeoutError from None
        if outcome is None:
            self._ready.put(None)  # other threads that wait are to see it, too
        return outcome


class ResultIterator(multiprocessing.pool.IMapIterator):  # type: ignore[type-arg] # not generic at run time
    """The results of ``imap``, each as soon as it is there.

    Once a loop has begun, or the first result has been asked for, an iterator that is closed or
    dropped takes no more items, and its tasks that no worker has begun are not run.

    Args:
        results: Where the results come from.
        cancel: Called when no more results are wanted.
    """

    def __init__(self, results: ResultQueue, cancel: Callable[[], object]) -> None:
        # Not the standard constructor: nothing of what the standard class keeps is used.
        self._results = results
        self._cancel = cancel
        self._begun = False
        self._closed = False

    __class_getitem__: Any = classmethod(cast("Any", GenericAlias))

    @override
    def __iter__(self) -> Self:
        self._begun = True
        return self

    @override
    def next(self, timeout: float | None = None) -> Any:
        """Return the next result, waiting *timeout* seconds for it at most.

        Raises:
            StopIteration: There are no more results.
            multiprocessing.TimeoutError: It is not there yet.
            Exception: What the call raised, or an error of the pool's own: see ``LockedPool``.
        """
        self._begun = True
        if self._closed:
            raise StopIteration
        outcome = self._results.get(timeout)
        if outcome is None:
            raise StopIteration
        self._results.make_room()
        success, value = outcome
        try:
            if success:
                return value
            raise value
        finally:
            del self, value, outcome  # as in ApplyResult.get

    @override
    def __next__(self, timeout: float | None = None) -> Any:
        return self.next(timeout)

    def close(self) -> None:
        """Take no more items; tasks that no worker has begun are not run."""
        self._closed = True
        self._cancel()
        self._results.release()

    def __del__(self) -> None:
        # Before the first result is asked for, the iterator may have been dropped on purpose: as with
        # the standard pool, pool.imap(f, items) alone runs f on all of them.
        if self._begun:
            self.close()


class UnorderedResultIterator(ResultIterator, multiprocessing.pool.IMapUnorderedIterator):  # type: ignore[type-arg] # the same
    """The results of ``imap_unordered``, in the order in which they come."""


@contextmanager
def _waiting(result: Result) -> Generator[None, None, None]:
    """Note that the running thread waits for *result*, in case that it has a lock which that needs."""
    ident = threading.get_ident()
    outer = waiting_threads.get(ident)  # of the wait that a signal handler has interrupted
    waiting_threads[ident] = result
    try:
        yield
    finally:
        if outer is None:
            waiting_threads.pop(ident, None)
        else:
            waiting_threads[ident] = outer


def _call(callback: Callable[[Any], object], value: Any) -> None:
    try:
        callback(value)
    except BaseException:  # noqa: BLE001 - sys.exit() in it must not keep the pool from its end
        report_exception()
