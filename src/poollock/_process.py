"""What a process knows of itself: how it starts others, its name, whether its parent is alive."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import BaseContext
from typing import Any

_first_parent = os.getppid()


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
    if isinstance(context, BaseContext):
        return context.get_context()
    raise TypeError(
        f"context must be a multiprocessing context or the name of a start method, not {context!r}"
    )


def describe() -> str:
    """Return how a message names the running process."""
    return f"process {multiprocessing.current_process().name!r} (pid {os.getpid()})"


def parent_is_gone() -> bool:
    """Return whether the process that started this one has ended.

    The parent's sentinel alone would not do: it is a pipe, and a sibling that was forked
    later holds its other end too.  With forkserver, the parent by pid is the fork server,
    which ends with the program.
    """
    parent = multiprocessing.parent_process()
    return parent is not None and (os.getppid() != _first_parent or not parent.is_alive())


def _after_fork() -> None:
    global _first_parent  # noqa: PLW0603 - one per process, like the pid
    _first_parent = os.getppid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
