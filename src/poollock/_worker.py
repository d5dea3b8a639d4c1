"""How a worker starts: undisturbed by Ctrl-C, with the pool's locks in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._base import BaseLock, install_locks
from ._interrupts import leave_interrupts_to_parent, let_interrupts_through


def start_worker(
    locks: Mapping[str, BaseLock],
    others: Iterable[BaseLock],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Put the pool's locks in place, then run the user's initializer."""
    leave_interrupts_to_parent()
    let_interrupts_through()
    install_locks(locks, others)
    if initializer is not None:
        initializer(*initargs)
