"""The arguments of a pool, looked at before any process starts."""

from __future__ import annotations

from keyword import iskeyword
from multiprocessing.context import BaseContext
from typing import Any

from .._locks.base import BaseLock


def check_count(name: str, count: object, error: type[Exception] = TypeError) -> None:
    """Raise unless *count* is None or a number from 1 on; *error* if it is no number."""
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool):
        raise error(f"{name} must be an int or None, not {count!r}")
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")


def check_size(name: str, size: object) -> None:
    """Raise unless *size* is a number from 0 on."""
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name} must be an int, not {size!r}")
    if size < 0:
        raise ValueError(f"{name} must not be negative: {size}")


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
        way_out = "; locks={'log': Lock()} gives it one" if isinstance(name, BaseLock) else ""
        raise TypeError(f"the name of a lock must be a str, not {name!r}{way_out}")
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
