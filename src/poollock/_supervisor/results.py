"""What becomes of the results that users wait for; and their callbacks."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from multiprocessing.pool import ApplyResult, IMapUnorderedIterator, MapResult
from operator import itemgetter
from typing import Any, TypeAlias, cast

from poollock._backend.describe import describe, show_error
from poollock._backend.mp_pool import MaybeEncodingError
from poollock._worker.pickling_errors import function_name

from .callbacks import Callbacks, report
from .failures import MakeError
from .task import Task

# The job, the part of it, and whether that succeeded, with its result or its error.
Outcome: TypeAlias = tuple[int, int, tuple[bool, Any]]


class PendingResults:
    """The results that are waited for; the result handler alone sets them.

    Args:
        cache: The results, by number of the job.
        wake: Called when all callbacks that were due have been called.
    """

    def __init__(self, cache: dict[int, Any], wake: Callable[[], object]) -> None:
        self._cache = cache
        self._callbacks = Callbacks(wake)
        self._claim = threading.RLock()
        self._setting: Any = None  # the result whose callback may be running

    @property
    def pending(self) -> bool:
        """Whether a callback is still to be called."""
        return self._callbacks.pending

    @property
    def in_callback(self) -> bool:
        """Whether this is called by a callback."""
        return self._callbacks.is_calling

    @property
    def are_awaited(self) -> bool:
        """Whether somebody waits for any."""
        return bool(self._cache)

    def are_awaited_of(self, job: int) -> bool:
        """Return whether somebody waits for those of *job*."""
        return job in self._cache

    def name(self, task: Task) -> str:
        """Return how a message names a task: ``send_request, item 7``."""
        func, result = function_name(task.func), self._cache.get(task.job)
        first = self.first_item(task)
        if first is not None:
            last = first + task.items - 1
            return f"{func}, item {first}" if first == last else f"{func}, items {first} to {last}"
        if result is None or isinstance(result, ApplyResult):
            return func
        return f"{func}, {'chunk' if task.items else 'item'} {task.index}"

    def first_item(self, task: Task) -> int | None:
        """Return the number of the first item of *task*, if it is a chunk of a map."""
        result = self._cache.get(task.job)
        return task.index * cast("Any", result)._chunksize if isinstance(result, MapResult) else None

    def load(self, task: Task, payload: memoryview) -> Outcome:
        """Return the outcome of *task* that a worker has sent."""
        value: Any
        try:
            success, value, left = pickle.loads(payload)
            if not success and type(value) is MaybeEncodingError:
                value.value = f"{value.value} of {self.name(task)}"
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a __setstate__ is the task's, too
            failure = pickle.UnpicklingError(
                f"the result of {self.name(task)} cannot be unpickled in {describe()}: {show_error(error)}"
            )
            failure.__cause__ = error
            success, value, left = False, failure, None
        if left:
            self._warn(task, left)
        return task.job, task.index, (success, value)

    def _warn(self, task: Task, left: list[str]) -> None:
        try:
            message = (
                f"{self.name(task)} ended while it held {', '.join(map(repr, left))}, which has been released"
            )
            warnings.warn(message, RuntimeWarning, 2)
        except BaseException:  # noqa: BLE001 - warnings may be errors here
            report()

    def set(self, outcomes: Iterable[Outcome]) -> None:
        """Set parts of jobs."""
        for job, parts in groupby(outcomes, itemgetter(0)):
            result = self._cache.get(job)
            if result is None:
                continue
            if hasattr(result, "_cond"):  # an iterator
                self._add(result, parts)
            elif _has_callback(result):
                for _, index, part in parts:
                    self._callbacks.put(partial(self._set_in_turn, result, index, part))
            else:
                for _, index, part in parts:
                    if job in self._cache:  # an iterable may be longer than it said
                        result._set(index, part)

    def _set_in_turn(self, result: Any, index: int, outcome: tuple[bool, Any]) -> None:
        with self._claim:
            if result._job not in self._cache:  # it has failed meanwhile, because the pool has ended
                return
            self._setting = result
        try:
            result._set(index, outcome)
        finally:
            self._setting = None

    def _add(self, results: Any, parts: Iterable[Outcome]) -> None:
        """Do what ``_set`` of an iterator does, waking the thread that waits once, not for each part."""
        unordered = isinstance(results, IMapUnorderedIterator)
        with results._cond:
            before = results._index
            for _, index, part in parts:
                if not (unordered or index == results._index):
                    results._unsorted[index] = part
                    continue
                results._items.append(part)
                results._index += 1
                while results._index in results._unsorted:
                    results._items.append(results._unsorted.pop(results._index))
                    results._index += 1
            results._cond.notify(results._index - before)  # one for each part, as the standard pool
            if results._index == results._length:
                results._cond.notify_all()  # there is no more for the others
                del self._cache[results._job]
                results._pool = None

    def set_length(self, results: Any, length: int) -> None:
        """Say how many results an iterator has."""
        if results._job in self._cache:
            results._set_length(length)
            with results._cond:
                if results._index == length:
                    results._cond.notify_all()

    def end(self, job: int, index: int, error: BaseException) -> None:
        """Give what an iterable raised to whoever waits: no part comes after it."""
        result = self._cache.get(job)
        if isinstance(result, MapResult):  # it would wait for as many parts as there should have been
            self._fail_in_turn(result, error)
        else:
            self.set([(job, index, (False, error))])

    def fail_all(self, make_error: MakeError, *, now: bool = False) -> None:
        """Give an error to everybody who waits; *now* even if a callback is running, or others are due."""
        for result in list(self._cache.values()):
            if now:
                self._fail(result, make_error(), now=True)
            else:
                self._fail_in_turn(result, make_error())

    def _fail_in_turn(self, result: Any, error: BaseException) -> None:
        if _has_callback(result):
            self._callbacks.put(partial(self._fail, result, error))  # after what is to be set before
        else:
            self._fail(result, error)

    def _fail(self, result: Any, error: BaseException, *, now: bool = False) -> None:
        with self._claim:
            if result is self._setting:
                if not self._callbacks.stopped:  # else it has been told
                    self._callbacks.put(partial(self._fail, result, error))
                return
            if self._cache.pop(result._job, None) is None:
                return
        result._pool = None
        if hasattr(result, "_cond"):  # an iterator
            with result._cond:
                result._items.append((False, error))
                result._index += 1
                result._length = result._index
                result._cond.notify_all()
            return
        result._success, result._value = False, error
        if now:
            result._event.set()
        if result._error_callback:
            call = partial(result._error_callback, error)
            self._callbacks.put(call) if now else call()
        result._event.set()

    def close(self) -> None:
        """Call no more callbacks than those that are due."""
        self._callbacks.stop()


def _has_callback(result: Any) -> bool:
    return bool(getattr(result, "_callback", None) or getattr(result, "_error_callback", None))
