"""Which locks a task function asks for, bound to it with functools.partial."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import partial
from itertools import takewhile
from types import FunctionType, MethodType
from typing import Any, TypeVar

from poollock._locks.base import BaseLock

_T = TypeVar("_T")

# inspect.signature takes 10 µs or more: each function is asked once whether it wants a lock.
_required: weakref.WeakKeyDictionary[FunctionType, frozenset[str]] = weakref.WeakKeyDictionary()


def asks_for(func: Callable[..., Any], names: Iterable[str]) -> bool:
    """Return whether *func* has a required parameter called by one of *names*."""
    return not _required_parameters(func).isdisjoint(names)


def bind_locks(
    func: Callable[..., _T],
    locks: Mapping[str, BaseLock],
    count: int,
    keywords: Iterable[str] = (),
) -> Callable[..., _T]:
    """Return *func* with the locks bound that a call would leave unfilled.

    Leading lock parameters are bound by position, later ones by keyword.  A call that works
    as it is keeps its meaning: nothing is bound.

    Args:
        func: The task function.
        locks: The pool's locks by name.
        count: How many positional arguments the call has.
        keywords: The names of its keyword arguments.

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
    args, kwds = (None,) * count, dict.fromkeys(keywords)
    try:
        signature.bind(*args, **kwds)
    except TypeError as error:
        reason = str(error)
    else:
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
    name = getattr(func, "__qualname__", repr(func))
    hint = "" if len(leading) == len(wanted) else ". Put the lock parameters first, or make them keyword-only"
    raise TypeError(
        f"the pool cannot pass its locks to {name}{signature}, called with {count} positional "
        f"argument{'' if count == 1 else 's'}: {reason}{hint}"
    )


def bind_star(
    func: Callable[..., _T], iterable: Iterable[Iterable[Any]], locks: Mapping[str, BaseLock]
) -> tuple[Callable[..., _T], Iterable[Iterable[Any]]]:
    """Return *func* as ``bind_locks`` does for the calls of a ``starmap``, and those calls."""
    if not asks_for(func, locks):
        return func, iterable
    calls = [args if isinstance(args, Sized) else tuple(args) for args in iterable]
    shortest = min(map(len, calls), default=0)  # the call that leaves the most to be filled
    return (bind_locks(func, locks, shortest) if calls else func), calls


def _required_parameters(func: Callable[..., Any]) -> frozenset[str]:
    function = func.__func__ if isinstance(func, MethodType) else func
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
