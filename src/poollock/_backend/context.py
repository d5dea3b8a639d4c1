"""The multiprocessing context that an argument stands for."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext
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
    if isinstance(context, (BaseContext, ModuleType)) and hasattr(context, "get_context"):
        return context.get_context()
    if hasattr(context, "Process") and hasattr(context, "get_start_method"):
        return cast("BaseContext", context)
    raise TypeError(
        f"context must be a multiprocessing context or the name of a start method, not {context!r}"
    )
