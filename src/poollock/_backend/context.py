"""The multiprocessing context that an argument stands for."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, cast


def resolve_context(context: Any) -> BaseContext:
    """Return the multiprocessing context that *context* stands for.

    Args:
        context: A context, the name of a start method, or ``None`` for the default context.

    Raises:
        TypeError: *context* is something else.
        ValueError: This platform has no such start method.
    """
    if context is None or isinstance(context, str):
        return multiprocessing.get_context(context)
    resolved: Any = context
    if isinstance(context, (BaseContext, ModuleType)) and hasattr(context, "get_context"):
        resolved = context.get_context()
    if not (hasattr(resolved, "Process") and hasattr(resolved, "get_start_method")):
        raise TypeError(
            f"context must be a multiprocessing context or the name of a start method, not {context!r}"
        )
    if _has_foreign_processes(resolved):
        package = resolved.Process.__module__.partition(".")[0]
        raise TypeError(
            f"context is one of the package {package!r}, whose processes and locks do not work with those of "
            f"multiprocessing: use multiprocessing.get_context({resolved.get_start_method()!r}), or the name "
            "of the start method; a context whose Process is a multiprocessing.process.BaseProcess can be "
            "used, too"
        )
    return cast("BaseContext", resolved)


def _has_foreign_processes(context: Any) -> bool:
    """Return whether *context* belongs to a copy of multiprocessing, such as the package multiprocess."""
    bases = getattr(context.Process, "__mro__", ())
    return any(base.__name__ == BaseProcess.__name__ and base is not BaseProcess for base in bases)
