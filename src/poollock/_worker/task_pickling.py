"""Tasks as bytes: how the function is to be called, the function, and its arguments."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from poollock._backend.describe import describe

from .call_errors import explain_call
from .object_pickling import PLAIN, ObjectPickler, by_value
from .pickling_errors import EXTRA_HINT, function_name, rebuilt_error

# How a task calls its function: once, with each item of a chunk, or with the parts of each item.
CALL, MAP, STARMAP = range(3)


def dump_task(
    pickler: ObjectPickler, how: int, func: Any, args: tuple[Any, ...], kwds: Mapping[str, Any]
) -> bytes:
    """Return a task as bytes.

    Args:
        pickler: Pickles for the workers.
        how: ``CALL``, ``MAP`` or ``STARMAP``.
        func: The task function.
        args: Its arguments; for ``MAP`` and ``STARMAP``, the items of the chunk.
        kwds: Its keyword arguments, for ``CALL``.

    Raises:
        Exception: What pickling raised.
    """
    task = (how, func, args, kwds) if kwds else (how, func, args)
    if type(func) is FunctionType:
        if len(args) == 1 and not kwds and type(args[0]) in PLAIN and pickler.sends_by_name(func):
            try:  # suppress() takes half as long as this
                return pickle.dumps(task)
            except (AttributeError, pickle.PicklingError):  # its name stands for another, or for none
                pass
        return pickler.dump(task)
    if _has_its_method(func):
        return pickler.dump(task)
    if by_value() is not None:
        return pickler.dump_by_value(task)
    name = _without_partial(func).__name__
    raise pickle.PicklingError(
        f"{function_name(func)} cannot be sent from {describe()} to a worker: a method is sent as its "
        f"object and its name, and the object has not this one under {name!r}. Rename a method that begins "
        f"with two underscores, and give a decorated one its name by functools.wraps; or {EXTRA_HINT}"
    )


def run_task(data: memoryview) -> Any:
    """Run the task that *data* holds, release *data* before, and return the result.

    Raises:
        Exception: What unpickling raised, the message saying what to do; or what the task raised.
    """
    try:
        how, func, args, *kwds = pickle.loads(data)
    except Exception as error:
        raise unpickling_error(error) from error
    data.release()  # or a large argument would be in memory twice
    return call(how, func, args, *kwds)


def unpickling_error(error: Exception) -> Exception:
    """Return *error*, which unpickling a task has raised, with a message that says what to do."""
    message = f"{error}\nA task could not be unpickled in {describe()}."
    if isinstance(error, (AttributeError, ImportError)):
        message += (
            " A worker must be able to import what a task is made of: put the function, and the classes "
            "of its arguments, into a module. One typed into a REPL or a notebook, or made after the "
            "workers were started, is not there."
        )
        if by_value() is None:
            message += f" Or {EXTRA_HINT}."
    return rebuilt_error(error, message, pickle.UnpicklingError)


def call(how: int, func: Any, args: tuple[Any, ...], kwds: Mapping[str, Any] = {}) -> Any:
    """Call *func* as a task does, with the parameters of ``dump_task``, and return the result."""
    try:
        if how == MAP:
            return [func(item) for item in args]
        if how == STARMAP:
            return [func(*item) for item in args]
        return func(*args, **kwds)
    except TypeError as error:
        calls = [(item,) for item in args] if how == MAP else args if how == STARMAP else [args]
        with suppress(Exception):  # whatever the user's objects do when they are looked at
            explain_call(error, func, calls, kwds)
        raise


def _has_its_method(func: Any) -> bool:
    """Return whether the worker finds *func* by its name, if it is a bound method."""
    func = _without_partial(func)
    return not isinstance(func, MethodType) or getattr(func.__self__, func.__name__, None) == func


def _without_partial(func: Any) -> Any:
    while isinstance(func, partial):
        func = func.func
    return func
