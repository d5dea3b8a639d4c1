"""Messages for a task that does not pickle: which part of it does not, and what to do."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (it walks through objects of any type)

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing.pool import Pool
from multiprocessing.synchronize import SemLock
from types import FunctionType, MethodType
from typing import Any, TypeAlias

from poollock._backend.describe import describe

from .object_pickling import AnyPickler, by_value

# What a message says that names another way out.
EXTRA_HINT = "install poollock[cloudpickle], which sends such a thing as it is"

# Where in the task a part is, and the part itself.
_Part: TypeAlias = tuple[str, Any]

_REBUILT_AS_THEY_ARE = (RuntimeError, TypeError, AttributeError, pickle.PicklingError, NotImplementedError)


def explain_pickling_error(
    error: Exception,
    pickler: AnyPickler,
    func: Any,
    arguments: Iterable[tuple[str, Any]],
    description: str,
) -> Exception:
    """Return *error* with a message that names the part of a task that does not pickle, and a hint.

    Args:
        error: What pickling the task raised.
        pickler: What has pickled it.
        func: The task function.
        arguments: Its arguments, each after what a message calls it: ``item 7``.
        description: What a message calls the task.
    """
    if isinstance(error, RecursionError):  # no single part causes it
        return error
    parts = [("the function", func), *arguments]
    found = (_find_unpicklable(pickler, path, part, set()) for path, part in parts)
    unpicklable = next(filter(None, found), None)
    if unpicklable is None:
        return error
    path, part = unpicklable
    message = (
        f"{error}\nThe task {description} cannot be sent from {describe()} to a worker:\n"
        f"    {path}: {_kind_of(part)}\n{_hint(part)}."
    )
    better = rebuilt_error(error, message, pickle.PicklingError)
    better.__cause__ = error
    return better


def rebuilt_error(error: Exception, message: str, otherwise: type[Exception]) -> Exception:
    """Return *error*'s like with another message, if its type is known to be made of one."""
    if type(error) in _REBUILT_AS_THEY_ARE:
        return type(error)(message)
    return otherwise(f"{type(error).__name__}: {message}")


def _find_unpicklable(pickler: AnyPickler, path: str, part: Any, seen: set[int]) -> _Part | None:
    """Return the innermost part of *part* that does not pickle, after the path to it."""
    if id(part) in seen or _pickles(pickler, part):
        return None
    seen.add(id(part))
    for inner_path, inner in _parts_of(path, part):
        if unpicklable := _find_unpicklable(pickler, inner_path, inner, seen):
            return unpicklable
    return path, part


def _pickles(pickler: AnyPickler, part: Any) -> bool:
    try:
        pickler.dump(part)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not pickle
        return False
    return True


def _parts_of(path: str, whole: Any) -> Iterator[_Part]:
    if isinstance(whole, MethodType):
        yield f"the object of {function_name(whole)}", whole.__self__
    elif isinstance(whole, partial):
        yield path, whole.func
        named = [*enumerate(whole.args), *whole.keywords.items()]
        yield from ((f"argument {name!r} of {function_name(whole)}", arg) for name, arg in named)
    elif isinstance(whole, (list, tuple, set, frozenset)):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(whole))
    elif isinstance(whole, dict):
        for key, value in whole.items():
            yield f"a key of {path}", key
            yield f"{path}[{key!r}]", value
    elif isinstance(whole, FunctionType):
        yield from _variables_of(whole)
    elif not isinstance(whole, type):
        yield from _state_of(path, whole)


def _variables_of(func: FunctionType) -> Iterator[_Part]:
    """Yield what is sent together with *func*."""
    if by_value() is None:
        return
    import inspect  # noqa: PLC0415 - it takes long to import

    variables = inspect.getclosurevars(func)
    for name, value in {**variables.globals, **variables.nonlocals}.items():
        yield f"the variable {name!r} of {func.__qualname__}", value


def _state_of(path: str, whole: object) -> Iterator[_Part]:
    try:
        reduced = whole.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - it is to blame itself
        return
    if isinstance(reduced, str):
        return
    _, args, *rest = reduced
    for state in rest[0] if rest and isinstance(rest[0], tuple) else rest[:1]:
        if isinstance(state, dict):
            for name, value in state.items():
                yield f"{type(whole).__qualname__}.{name}", value
    for index, arg in enumerate(args):
        yield f"part {index} of {path}", arg


def function_name(func: Any) -> str:
    """Return how a message names a task function."""
    while isinstance(func, partial):
        func = func.func
    try:
        return getattr(func, "__qualname__", None) or repr(func)
    except BaseException:  # noqa: BLE001 - an object may fail to show itself, by sys.exit() too
        return f"a {type(func).__qualname__}"


def _kind_of(part: Any) -> str:
    if isinstance(part, (type, FunctionType)):
        kind = "class" if isinstance(part, type) else "function"
        return f"the {kind} {part.__module__}.{part.__qualname__}"
    name = type(part).__name__
    if type(part).__module__ not in ("builtins", "__main__"):
        name = f"{name} of {type(part).__module__}"
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _hint(part: Any) -> str:
    if isinstance(part, SemLock):
        return (
            "A multiprocessing lock reaches a worker only while that is started. Use the pool's lock: name "
            "a parameter of the function 'lock', or pass lock=pool.lock; or make a poollock.Lock() before "
            "the pool"
        )
    if isinstance(part, (type, FunctionType)):
        if "<" in part.__qualname__:
            hint = "Only what a module defines at its top level can be sent: move it there"
        else:
            hint = (
                "Only what its module has under that name can be sent: if that was reloaded, import it again"
            )
        return hint if by_value() is not None else f"{hint}, or {EXTRA_HINT}"
    if isinstance(part, Pool):
        return (
            "A pool belongs to the process that made it. Leave it out in the object's __getstate__, "
            "or make the task a module-level function"
        )
    if type(part).__module__.startswith("multiprocessing."):
        return (
            "What processes share reaches a worker only while that is started: hand it over by the "
            "initializer, locked_pool(4, initializer, (it,)), which puts it into a global"
        )
    return (
        "Leave it out in its object's __getstate__ and make it anew in the worker, or make the task a "
        "module-level function that takes only what it needs"
    )
