"""The outcome of a task as bytes: its result or its error, and the locks that it left held."""

from __future__ import annotations

import pickle
import reprlib
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from poollock._backend.describe import describe, show_error
from poollock._backend.mp_pool import ExceptionWithTraceback, MaybeEncodingError, RemoteTraceback

from .main_module import OwnMainModule
from .object_pickling import PLAIN, AnyPickler, ObjectPickler

# Whether a task returned, what it returned or raised, and the descriptions of the locks that it left held.
Outcome: TypeAlias = "tuple[bool, Any, list[str]]"

_T = TypeVar("_T")


_pickler = ObjectPickler(OwnMainModule())


def dump_result(value: Any, locks_left: list[str], pickler: AnyPickler = _pickler) -> bytes:
    """Return the outcome of a task that returned *value*, as bytes."""
    if type(value) in PLAIN:
        return pickle.dumps((True, value, locks_left))
    try:
        return pickler.dump((True, value, locks_left))
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a __reduce__ must not end the worker
        return pickle.dumps((False, pickle.dumps(MaybeEncodingError(error, _Text(show(value)))), locks_left))


def dump_error(error: BaseException, locks_left: list[str], pickler: AnyPickler = _pickler) -> bytes:
    """Return the outcome of a task that raised *error*, as bytes.

    The error is pickled by itself: only the process that waits for it can tell whether it can
    be unpickled, and must then still be able to read the rest.  To try it here would use up a
    descriptor that the error carries.
    """
    wrapped = without_warnings(lambda: ExceptionWithTraceback(error, error.__traceback__))
    try:
        payload = pickler.dump(wrapped)
    except BaseException as reason:  # noqa: BLE001 - as above
        unsendable = ExceptionWithTraceback(MaybeEncodingError(reason, _Text(show(error))), None)
        unsendable.tb = wrapped.tb
        payload = pickle.dumps(unsendable)
    return pickle.dumps((False, payload, locks_left, show(error), wrapped.tb))


def load_outcome(payload: memoryview, describe_task: Callable[[], str]) -> Outcome:
    """Return the outcome that *payload* holds, an error if it cannot be unpickled.

    Args:
        payload: What ``dump_result`` or ``dump_error`` returned.
        describe_task: Returns what a message calls the task.
    """
    value: Any
    try:
        success, value, locks_left, *shown = pickle.loads(payload)
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a __setstate__ is the task's error, too
        # Without its frames, which lead to this one: what the user's traceback names would stay in memory.
        reason = error.with_traceback(None)
        failure = pickle.UnpicklingError(
            f"the result of {describe_task()} cannot be unpickled in {describe()}: {show_error(reason)}"
        )
        failure.__cause__ = reason
        return False, failure, []
    if not success:
        value = _load_error(value, *shown)
        if type(value) is MaybeEncodingError:
            value.value = f"{value.value} of {describe_task()}"
    return success, value, locks_left


def _load_error(payload: bytes, shown: str = "", trace: str = "") -> BaseException:
    try:
        error: BaseException = pickle.loads(payload)
    except BaseException as reason:  # noqa: BLE001 - it may need other arguments than those it is pickled with
        error = MaybeEncodingError(reason.with_traceback(None), _Text(shown))
        error.__cause__ = RemoteTraceback(trace)
    return error


def without_warnings(format_traceback: Callable[[], _T]) -> _T:
    """Return what *format_traceback* does; if that raises, without the warnings that may be errors here.

    CPython 3.15 warns of a module without a loader, as the main module of a worker is.
    """
    try:
        return format_traceback()
    except Exception:  # noqa: BLE001 - it is raised again, if it is no warning
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return format_traceback()


class _Text(str):
    """What ``MaybeEncodingError``, which keeps the ``repr`` of a value, shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def show(value: Any) -> str:
    """Return a short ``repr`` of *value*, even if its own raises."""
    try:
        return reprlib.repr(value)
    except Exception as error:  # noqa: BLE001 - an object may fail to show itself
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
