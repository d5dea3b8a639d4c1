"""How a worker starts: undisturbed by Ctrl-C, with the pool's locks in place."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any

from ._base import BaseLock, install_locks


def start_worker(
    locks: Mapping[str, BaseLock],
    others: Iterable[BaseLock],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Put the pool's locks in place, then run the user's initializer.

    On Ctrl-C a terminal sends SIGINT to every process.  What to do is the parent's decision;
    a worker goes on with its task.
    """
    # Not SIG_IGN, which programs that the task starts would inherit, unless they are to, as under nohup.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave_to_parent)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    install_locks(locks, others)
    if initializer is not None:
        initializer(*initargs)


def _leave_to_parent(signum: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def interrupts_held(ctx: BaseContext) -> Generator[None, None, None]:
    """Hold SIGINT back while processes are started, which inherit that.

    A worker lets the signal through once it has a handler; the manager never does.
    """
    _start_helpers(ctx)
    before = hold_interrupts()
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold_interrupts() -> set[Any] | None:
    """Hold SIGINT back in the running thread; return what was held before, None on Windows."""
    if sys.platform == "win32":
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _start_helpers(ctx: BaseContext) -> None:
    """Start the processes that live as long as the program: they must not inherit a blocked signal."""
    method = ctx.get_start_method()
    if method != "fork" and sys.platform != "win32":
        from multiprocessing import resource_tracker  # noqa: PLC0415 - not on Windows

        resource_tracker.ensure_running()  # unblocks SIGINT itself, before Python 3.12.5
    if method == "forkserver":
        from multiprocessing import forkserver  # noqa: PLC0415 - not on Windows

        forkserver.ensure_running()
