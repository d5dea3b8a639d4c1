"""The arguments of a pool, looked at before any process starts."""

from __future__ import annotations

from keyword import iskeyword
from multiprocessing.context import BaseContext
from typing import Any

from poollock._locks.base import BaseLock


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
