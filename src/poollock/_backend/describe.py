"""How a message names a process, an error, and the way a process ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

_SIGKILL = 9  # on Windows, `signal` does not have it
_SEVERITY_ERROR = 0xC


def show_error(error: BaseException, caught: type[BaseException] = BaseException) -> str:
    """Return how a message shows *error*, whose own text may be one more: one that is *caught*."""
    try:
        return f"{type(error).__name__}: {error}"
    except caught:
        return type(error).__name__


def describe() -> str:
    """Return how a message names the running process."""
    return f"process {multiprocessing.current_process().name!r} (pid {os.getpid()})"


def was_killed(code: int | None) -> bool:
    """Return whether somebody else has ended the process that has the exit code *code*, if that is known.

    On Windows whoever ends a process chooses its exit code.  ``os.kill`` takes the number of the
    signal; the 1 of the Task Manager is also what Python ends with after an exception, and counts as that.
    """
    if code is None or code < 0 or sys.platform != "win32":
        return code is None or code < 0
    return _is_status(code) or code in {signal.SIGTERM, _SIGKILL}


def _is_status(code: int) -> bool:
    """Return whether Windows itself has ended the process, after a crash say: an error of NTSTATUS."""
    return sys.platform == "win32" and code >> 28 == _SEVERITY_ERROR


def describe_exit(code: int | None) -> str:
    """Return how a message says that a process ended."""
    if code is None:
        return "ended, with an unknown exit code"
    if code >= 0:
        return f"ended with exit code {hex(code) if _is_status(code) else code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
