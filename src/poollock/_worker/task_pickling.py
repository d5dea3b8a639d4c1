"""Tasks as bytes; and when one cannot be pickled, which part of it, and the way out."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (it walks through objects of any type)

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing.pool import Pool
from multiprocessing.synchronize import SemLock
from types import FunctionType, MethodType
from typing import Any, TypeAlias

from poollock._backend.describe import describe
from poollock._backend.mp_pool import mapstar, starmapstar
from .framing import dump

# A part of an object: where in the object it is, and the part itself.
_Part: TypeAlias = tuple[str, Any]

# How a task calls its function: once, for each item of a chunk, or with each item's parts.
_CALL, _MAP, _STARMAP = range(3)

_REBUILT_AS_THEY_ARE = (RuntimeError, TypeError, AttributeError, pickle.PicklingError, NotImplementedError)


def dump_task(func: Any, args: tuple[Any, ...], kwds: Mapping[str, Any]) -> bytes:
    """Return a task as bytes.

    Raises:
        Exception: What pickling raised.
    """
    if _is_chunk(func, args):
        how = _MAP if func is mapstar else _STARMAP
        func, args = args[0]
    else:
        how = _CALL
    if type(func) is not FunctionType:
        _check_method(func)
    return dump((how, func, args, kwds) if kwds else (how, func, args))


def run_task(data: memoryview) -> Any:
    """Run the task that *data* holds, and which then is released, and return its result.

    Raises:
        Exception: What unpickling raised, the message saying what to do; or what the task raised.
    """
    try:
        how, func, args, *kwds = pickle.loads(data)
    except Exception as error:
        message = f"{error}\nA task could not be unpickled in {describe()}."
        if isinstance(error, (AttributeError, ImportError)):
            message += (
                " A worker must be able to import what a task is made of: put the function, and the classes "
                "of its arguments, into a module. One typed into a REPL or a notebook, or made after the "
                "workers were started, is not there."
            )
        raise _rebuilt(error, message, pickle.UnpicklingError) from error
    data.release()  # a large argument is not to be there twice
    if how == _MAP:
        return [func(item) for item in args]
    if how == _STARMAP:
        return [func(*item) for item in args]
    return func(*args, **kwds[0]) if kwds else func(*args)


def explained(
    error: Exception,
    func: Any,
    args: tuple[Any, ...],
    kwds: Mapping[str, Any],
    *,
    name: str,
    first: int | None,
) -> Exception:
    """Return what ``dump_task`` raised with a message that says which part is to blame, and the way out.

    Args:
        error: The error.
        func: As for ``dump_task``.
        args: The same.
        kwds: The same.
        name: How a message names the task.
        first: The number of the chunk's first item among all, if that is known.
    """
    if isinstance(error, RecursionError):  # no part of it is to blame
        return error
    if _is_chunk(func, args):
        func, items = args[0]
        among = " of the chunk" if first is None else ""
        parts: list[_Part] = [(f"item {index}{among}", item) for index, item in enumerate(items, first or 0)]
    else:
        parts = [(f"argument {index}", arg) for index, arg in enumerate(args)]
        parts += [(f"argument {keyword!r}", arg) for keyword, arg in kwds.items()]
    culprits = (_culprit(where, part, set()) for where, part in [("the function", func), *parts])
    culprit = next(filter(None, culprits), None)
    if culprit is None:
        return error
    path, blamed = culprit
    message = (
        f"{error}\nThe task {name} cannot be sent from {describe()} to a worker:\n"
        f"    {path}: {_kind_of(blamed)}\n{_way_out(blamed)}."
    )
    better = _rebuilt(error, message, pickle.PicklingError)
    better.__cause__ = error
    return better


def task_function(func: Any, args: tuple[Any, ...]) -> Any:
    """Return the user's function, which ``map`` wraps in one that goes through a chunk."""
    return args[0][0] if _is_chunk(func, args) else func


def _is_chunk(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether ``map`` made this task: of the user's function and several items."""
    if func is not mapstar and func is not starmapstar:
        return False
    if len(args) != 1 or type(args[0]) is not tuple or len(args[0]) != 2:  # noqa: PLR2004 - a pair
        return False
    return type(args[0][1]) is tuple


def _check_method(func: Any) -> None:
    """Raise if the worker would not find the bound method *func* by its name."""
    while isinstance(func, partial):
        func = func.func
    if isinstance(func, MethodType) and getattr(func.__self__, func.__name__, None) != func:
        raise pickle.PicklingError(
            f"{name_of(func)} cannot be sent from {describe()} to a worker: a method is sent as its object "
            f"and its name, and the object has not this one under {func.__name__!r}. Rename a method "
            "that begins with two underscores, and give a decorated one its name by functools.wraps"
        )


def _rebuilt(error: Exception, message: str, otherwise: type[Exception]) -> Exception:
    """Return *error*'s like with another message, if its type is known to be made of one."""
    if type(error) in _REBUILT_AS_THEY_ARE:
        return type(error)(message)
    return otherwise(f"{type(error).__name__}: {message}")


def _culprit(path: str, part: Any, seen: set[int]) -> _Part | None:
    """Return the innermost part of *part* that does not pickle, and the path to it."""
    if id(part) in seen or _pickles(part):
        return None
    seen.add(id(part))
    for inner_path, inner in _parts_of(path, part):
        culprit = _culprit(inner_path, inner, seen)
        if culprit:
            return culprit
    return path, part


def _pickles(part: Any) -> bool:
    try:
        dump(part)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not pickle
        return False
    return True


def _parts_of(path: str, whole: Any) -> Iterator[_Part]:
    if isinstance(whole, MethodType):
        yield f"the object of {name_of(whole)}", whole.__self__
    elif isinstance(whole, partial):
        yield path, whole.func
        for index, arg in enumerate(whole.args):
            yield f"argument {index} of {name_of(whole)}", arg
        for name, arg in whole.keywords.items():
            yield f"argument {name!r} of {name_of(whole)}", arg
    elif isinstance(whole, (list, tuple, set, frozenset)):
        for index, item in enumerate(whole):
            yield f"{path}[{index}]", item
    elif isinstance(whole, dict):
        for key, value in whole.items():
            yield f"a key of {path}", key
            yield f"{path}[{key!r}]", value
    elif not isinstance(whole, (type, FunctionType)):
        yield from _state_of(path, whole)


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


def name_of(func: Any) -> str:
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


def _way_out(part: Any) -> str:
    if isinstance(part, SemLock):
        return (
            "A multiprocessing lock reaches a worker only while that is started. Use the pool's lock: name "
            "a parameter of the function 'lock', or pass lock=pool.lock; or make a poollock.Lock() before "
            "the pool"
        )
    if isinstance(part, (type, FunctionType)):
        if "<" in part.__qualname__:
            return "Only what a module defines at its top level can be sent: move it there"
        return "Only what its module has under that name can be sent: if that was reloaded, import it again"
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
