"""Signals in a pool's processes.

A terminal sends Ctrl-C to every process; what to do is the decision of the pool's process alone.
A forked process inherits the handlers of its parent, which are not meant for it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any

if sys.platform == "win32":
    from .windows import ignore_ctrl_c

    _starting = threading.Lock()

# On Windows no signal handler of Python runs, and so no Ctrl-C interrupts, while a thread waits.  Waits for
# something that may take long are cut into slices of so many seconds; None is a wait without end.
WAIT_SLICE: float | None = 0.1 if sys.platform == "win32" else None

_signal: Any = import_module("_signal")  # without the enums of `signal`, which make a worker slower to start


def ignore_sigint() -> None:
    """Let SIGINT pass without effect in this process, a worker, which goes on with its task."""
    # Not SIG_IGN, which programs that the task starts would inherit; unless they are to, as under nohup.
    if _signal.signal(signal.SIGINT, _do_nothing) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _do_nothing(signum: int, frame: FrameType | None) -> None:
    pass


class DelayedKeyboardInterrupt:
    """A ``with`` block at whose end Ctrl-C does what it would have done inside, in the main thread."""

    _previous: Any = None  # the handler of SIGINT, if this thread runs it
    _arrived = False

    def __enter__(self) -> None:
        previous = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(previous):
            self._previous = previous
            signal.signal(signal.SIGINT, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._arrived = True

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            if self._arrived:
                signal.raise_signal(signal.SIGINT)


@contextmanager
def signals_blocked(ctx: BaseContext) -> Generator[None, None, None]:
    """Block, while processes are started, the signals that they must not receive with inherited handlers.

    A worker unblocks them once its own handlers are in place; the manager never does.
    """
    _start_helpers(ctx)
    previous = block_signals(ctx)
    try:
        yield
    finally:
        if previous is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def block_signals(ctx: BaseContext) -> set[Any] | None:
    """Block those signals in the running thread; return what was blocked before, None on Windows."""
    if sys.platform == "win32":
        return None
    blocked = {signal.SIGINT}
    if ctx.get_start_method() == "fork":  # only then does a process inherit a handler of SIGTERM
        blocked.add(signal.SIGTERM)
    return signal.pthread_sigmask(signal.SIG_BLOCK, blocked)


@contextmanager
def all_signals_blocked() -> Generator[None, None, None]:
    """Let no signal interrupt the running thread until the end of the block."""
    if sys.platform == "win32":
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def reset_sigterm() -> None:
    """In a process that was started: give SIGTERM its default, and tell no event loop of signals."""
    if sys.platform == "win32":
        return
    # A forked process shares the descriptor by which an event loop of its parent learns of signals.
    _signal.set_wakeup_fd(-1)
    _signal.signal(signal.SIGTERM, _signal.SIG_DFL)
    _signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def unblock_sigint() -> None:
    """In a process that was started, and has a handler of its own: receive SIGINT again."""
    if sys.platform == "win32":
        ignore_ctrl_c(ignore=False)
    else:
        _signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def ctrl_c_ignored_by_children() -> Generator[None, None, None]:
    """Have a process that is started meanwhile ignore Ctrl-C until it calls ``unblock_sigint``.

    That is for Windows, which has no signals to block.  A Ctrl-C that comes inside the block, which takes
    some milliseconds, is lost: it is inherited, whether this process ignores Ctrl-C.
    """
    if sys.platform == "win32":
        with _starting:  # else another thread's end of this would come before this thread's start
            ignore_ctrl_c(ignore=True)
            try:
                yield
            finally:
                ignore_ctrl_c(ignore=False)
    else:
        yield


def _start_helpers(ctx: BaseContext) -> None:
    """Start the processes that live as long as the program: they must not inherit a blocked signal."""
    method = ctx.get_start_method()
    if method != "fork" and sys.platform != "win32":
        from multiprocessing import resource_tracker  # noqa: PLC0415 - not on Windows

        resource_tracker.ensure_running()  # unblocks SIGINT itself, before Python 3.12.5
    if method == "forkserver":
        from multiprocessing import forkserver  # noqa: PLC0415 - not on Windows

        forkserver.ensure_running()
