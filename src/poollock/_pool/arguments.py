"""The arguments of a pool, checked before any process starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from keyword import iskeyword
from multiprocessing.context import BaseContext
from operator import index
from typing import TYPE_CHECKING, Any
from weakref import ref

from poollock._locks.base import BaseLock
from poollock._locks.registry import every_lock
from poollock._supervisor.failures import main_module_missing
from poollock._worker.main import InitArgs
from poollock._worker.main_module import MAIN
from poollock._worker.object_pickling import by_value

if TYPE_CHECKING:
    from poollock._trace.trace_file import TraceFile


def check_locks(locks: Any, ctx: BaseContext) -> dict[str, BaseLock | None]:
    """Return name to lock, or to None where a plain one is to be made."""
    if locks is None:
        return {"lock": None}
    if isinstance(locks, (str, BaseLock)) or not hasattr(locks, "__iter__"):
        raise TypeError(
            f"locks must be names, locks=('console', 'log'), or a mapping of name to lock, not {locks!r}"
        )
    is_mapping = hasattr(locks, "keys")
    checked: dict[str, BaseLock | None] = {}
    for name in locks:
        _check_name(name)
        if name in checked:
            raise ValueError(f"the name {name!r} stands twice in locks")
        checked[name] = locks[name] if is_mapping else None
        if is_mapping:
            _check_lock(name, locks[name], ctx)
    return checked


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        hint = "; locks={'log': Lock()} gives it one" if isinstance(name, BaseLock) else ""
        raise TypeError(f"the name of a lock must be a str, not {name!r}{hint}")
    if not name.isidentifier() or iskeyword(name):
        raise ValueError(f"the name of a lock must be one that a parameter can have, not {name!r}")


def _check_lock(name: str, lock: object, ctx: BaseContext) -> None:
    if not isinstance(lock, BaseLock):
        raise TypeError(
            f"locks[{name!r}] must be a Lock, RLock or Semaphore of poollock, not {lock!r}, "
            "which would not reach a worker"
        )
    if not can_reach(lock, ctx):
        method = ctx.get_start_method()
        raise ValueError(
            f"locks[{name!r}] was made for the start method 'fork' and this pool starts its workers by "
            f"{method!r}: make the lock with context={method!r}"
        )


def can_reach(lock: BaseLock, ctx: BaseContext) -> bool:
    """Return whether a worker that *ctx* starts can have *lock*."""
    return not lock.only_by_fork or ctx.get_start_method() == "fork"


def check_main_module(ctx: BaseContext) -> None:
    """Have the workers not import the main module if it is in no file.

    Raises:
        BrokenPoolError: They would have nothing of it: cloudpickle is not installed.
    """
    method = ctx.get_start_method()
    if method not in ("spawn", "forkserver") or hasattr(sys, "frozen"):
        return
    from multiprocessing import spawn  # noqa: PLC0415 - not for a pool that forks

    path = spawn.get_preparation_data("").get("init_main_from_path")
    if path is None or os.path.exists(path):
        return
    if by_value() is None:
        raise main_module_missing(path, method)
    # For multiprocessing, a main module of this name is one that no process imports.
    sys.modules[MAIN].__spec__ = ModuleSpec(MAIN, None)


def check_chunksize(chunksize: int) -> int:
    """Return *chunksize* as an int; raise ValueError if it is below 1."""
    size = index(chunksize)
    if size < 1:
        raise ValueError(f"chunksize must be 1 or more, not {size}")
    return size


def check_buffersize(buffersize: int | None, chunksize: int) -> None:
    """Raise ValueError if *buffersize* items are not even one chunk."""
    if buffersize is not None and index(buffersize) < chunksize:
        raise ValueError(f"buffersize must be at least the chunksize, {chunksize}, not {buffersize}")


def cpu_count() -> int:
    """Return how many workers there are by default, as for ``multiprocessing.Pool``."""
    # From Python 3.13 on, the processors that the process may use.
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


class InitArgsMaker:
    """Makes what each worker of a pool puts in place first.

    Args:
        locks: The pool's locks by name.
        ctx: The context that starts the workers.
        initializer: The initializer of the user.
        initargs: Its arguments.
    """

    def __init__(
        self,
        locks: Mapping[str, BaseLock],
        ctx: BaseContext,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self._locks = locks
        self._others = [_reference(lock) for lock in every_lock() if can_reach(lock, ctx)]
        self._initializer = initializer, initargs

    def __call__(self) -> InitArgs:
        others = [lock for other in self._others if (lock := other()) is not None]
        return self._locks, others, *self._initializer


def _reference(lock: BaseLock) -> Callable[[], BaseLock | None]:
    """Return a reference to *lock*; weak if another pool created it.

    Otherwise every pool would keep the locks of all earlier pools alive.
    """
    return ref(lock) if lock._is_pools else lambda: lock


def open_trace(path: str, processes: int) -> TraceFile:
    """Open the file for the picture of a run.

    Raises:
        OSError: It cannot be opened.
        ValueError: Another pool of this process writes it.
    """
    from poollock._trace.trace_file import TraceFile  # noqa: PLC0415 - few programs want it

    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return TraceFile(path, f"{program or 'python'}: a pool of {processes}")
