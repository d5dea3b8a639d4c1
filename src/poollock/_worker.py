"""What runs in a worker before its first task."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
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
    a worker goes on with its task.  The parent blocks the signal while it starts a worker, so
    there is no instant in which it would end one with a traceback.
    """
    # Not SIG_IGN, which programs that the task starts would inherit.
    signal.signal(signal.SIGINT, _leave_to_parent)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    install_locks(locks, others)
    if initializer is not None:
        initializer(*initargs)


def _leave_to_parent(signum: int, frame: FrameType | None) -> None:
    pass
