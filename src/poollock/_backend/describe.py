"""How a message names a process, an error, and the way a process ended."""

from __future__ import annotations

import multiprocessing
import os
import signal


def show_error(error: BaseException, caught: type[BaseException] = BaseException) -> str:
    """Return how a message shows *error*, whose own text may be one more: one that is *caught*."""
    try:
        return f"{type(error).__name__}: {error}"
    except caught:
        return type(error).__name__


def describe() -> str:
    """Return how a message names the running process."""
    return f"process {multiprocessing.current_process().name!r} (pid {os.getpid()})"


def describe_exit(code: int | None) -> str:
    """Return how a message says that a process ended."""
    if code is None:
        return "ended, with an unknown exit code"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
