"""The message of a call that leaves a parameter unfilled, perhaps because that is not called like a lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from poollock._locks.registry import installed, task_locks

from .pickling_errors import function_name


def explain_call(
    error: TypeError, func: Any, calls: Iterable[tuple[Any, ...]], kwds: Mapping[str, Any]
) -> None:
    """Say in *error* which parameters the pool would have filled, if one of *calls* does not suit *func*.

    Args:
        error: What a call raised.
        func: The task function.
        calls: The arguments of each call.
        kwds: The keyword arguments of each call.
    """
    import inspect  # noqa: PLC0415 - it takes long to import, and few workers need it

    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):  # a builtin that does not say
        return
    locks = task_locks.get(installed)
    if not locks or not locks.keys().isdisjoint(signature.parameters):
        return
    try:
        for args in calls:
            signature.bind(*args, **kwds)
    except TypeError:
        names = ", ".join(map(repr, locks))
        message = (
            f"{error}\nThe pool fills parameters that are called like its locks ({names}); "
            f"{function_name(func)}{signature} has none of that name"
        )
        error.args = (message,)
