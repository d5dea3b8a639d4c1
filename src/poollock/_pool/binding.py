"""Which locks a task function asks for, bound to it with functools.partial."""

from __future__ import annotations

import reprlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import nullcontext
from functools import partial
from itertools import takewhile
from types import FunctionType, MethodType
from typing import Any, TypeVar

from poollock._locks.base import BaseLock
from poollock._worker.pickling_errors import function_name

_T = TypeVar("_T")

# inspect.signature takes 10 µs or more: each function is asked once whether it wants a lock.
_required: weakref.WeakKeyDictionary[FunctionType, frozenset[str]] = weakref.WeakKeyDictionary()
# Functions whose first call was checked for something else in the place of a lock.
_checked: weakref.WeakSet[FunctionType] = weakref.WeakSet()
_UNKNOWN = object()  # an item that was not looked at


def asks_for(func: Callable[..., Any], names: Iterable[str]) -> bool:
    """Return whether *func* has a required parameter called by one of *names*."""
    return not _required_parameters(func).isdisjoint(names)


def bind_locks(
    func: Callable[..., _T],
    locks: Mapping[str, BaseLock],
    args: tuple[Any, ...],
    kwds: Mapping[str, Any] = {},
) -> Callable[..., _T]:
    """Return *func* with the locks bound that a call would leave unfilled.

    Leading lock parameters are bound by position, later ones by keyword.  A call that works
    as it is keeps its meaning: nothing is bound.

    Args:
        func: The task function.
        locks: The pool's locks by name.
        args: The positional arguments of the call.
        kwds: Its keyword arguments.

    Warns:
        RuntimeWarning: The call works as it is, and what it gives to a parameter called like a lock is none.

    Raises:
        TypeError: *func* asks for a lock at a place where ``partial`` cannot put it.
    """
    if not asks_for(func, locks):
        return func
    import inspect  # noqa: PLC0415 - it takes as long to import as half of poollock

    kinds = inspect.Parameter
    by_position = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    by_name = (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    signature = inspect.signature(func)
    try:
        bound = signature.bind(*args, **kwds)
    except TypeError as error:
        reason = str(error)
    else:
        _warn_of_other_values(func, signature, {name: bound.arguments.get(name) for name in locks})
        return func
    wanted = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.name in locks and parameter.default is kinds.empty and parameter.name not in kwds
    ]
    leading = list(takewhile(lambda p: p in wanted and p.kind in by_position, signature.parameters.values()))
    for first in (leading, []) if leading else ([],):
        placed = [None] * len(first)
        try:
            filled = signature.bind_partial(*placed, *args, **kwds).arguments
            later = [p.name for p in wanted if p.name not in filled and p.kind in by_name]
            signature.bind(*placed, *args, **kwds, **dict.fromkeys(later))
        except TypeError as error:
            if first or not leading:
                reason = str(error)
            continue
        return partial(func, *(locks[p.name] for p in first), **{name: locks[name] for name in later})
    names = ", ".join(map(repr, locks))
    call = f"{len(args)} positional argument{'' if len(args) == 1 else 's'}"
    hint = "" if len(leading) == len(wanted) else ". Put the lock parameters first, or make them keyword-only"
    raise TypeError(
        f"the pool cannot pass its locks ({names}) to {function_name(func)}{signature}, called with {call}: "
        f"{reason}{hint}"
    )


def bind_star(
    func: Callable[..., _T], iterable: Iterable[Iterable[Any]], locks: Mapping[str, BaseLock]
) -> tuple[Callable[..., _T], Iterable[Iterable[Any]]]:
    """Return *func* as ``bind_locks`` does for the calls of a ``starmap``, and those calls."""
    if not asks_for(func, locks):
        return func, iterable
    calls = [args if isinstance(args, Sized) else tuple(args) for args in iterable]
    if not calls:
        return func, calls
    shortest = min(calls, key=len)  # the call that leaves the most to be filled
    return bind_locks(func, locks, tuple(shortest)), calls


def bind_map(
    func: Callable[..., _T], iterable: Iterable[Any], locks: Mapping[str, BaseLock]
) -> Callable[..., _T]:
    """Return *func* as ``bind_locks`` does for the calls of a ``map``, each with one item."""
    if not asks_for(func, locks):
        return func
    # No item is taken out of an iterator for this: it might block.
    first = iterable[:1] if isinstance(iterable, (list, tuple, range)) else ()
    return bind_locks(func, locks, tuple(first) or (_UNKNOWN,))


def _warn_of_other_values(func: Callable[..., Any], signature: Any, values: Mapping[str, Any]) -> None:
    """Warn, once for each function, if a required lock parameter is given something else.

    Args:
        func: The task function.
        signature: Its signature.
        values: What the call gives to each of the parameters.
    """
    function = _function_of(func)
    if isinstance(function, FunctionType):
        if function in _checked:
            return
        _checked.add(function)
    for name, value in values.items():
        parameter = signature.parameters.get(name)
        if parameter is None or parameter.default is not parameter.empty or value is _UNKNOWN:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if hasattr(value, "acquire") or isinstance(value, nullcontext):
            continue
        warnings.warn(
            f"the call gives {reprlib.repr(value)} to the parameter {name!r} of "
            f"{function_name(func)}{signature}, which is called like a lock of the pool: it is no lock, and "
            "the pool fills only what a call leaves out. Make the parameter keyword-only, (..., *, "
            f"{name}), or call it otherwise",
            RuntimeWarning,
            stacklevel=5,
        )


def _function_of(func: Any) -> Any:
    return func.__func__ if isinstance(func, MethodType) else func


def _required_parameters(func: Callable[..., Any]) -> frozenset[str]:
    function = _function_of(func)
    if not isinstance(function, FunctionType):
        return _read_required_parameters(func)
    required = _required.get(function)
    if required is None:
        required = _required[function] = _read_required_parameters(function)
    return required


def _read_required_parameters(func: Callable[..., Any]) -> frozenset[str]:
    import inspect  # noqa: PLC0415 - see above

    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # not callable, or a builtin that does not say
        return frozenset()
    return frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty)
