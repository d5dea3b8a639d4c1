"""What Lock, RLock and Semaphore have in common: a semaphore, and words that say who has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

from poollock._backend.context import resolve_context
from poollock._backend.describe import describe
from poollock._backend.process import dead_parent, is_gone
from poollock._errors import PoolLockError
from poollock._typing import override

from . import waiting
from .base import BaseLock
from .registry import every_lock
from .shared_semaphore import SharedSemaphore
from .shared_words import SharedWords, shared_words

ABANDONED = 0  # where that word stands

# How often a wait tries before it sleeps, two microseconds in all: many holds end sooner, and to sleep and
# be woken takes ten times as long.
_TRIES = 20


class SemaphoreLock(BaseLock):
    """A lock on a semaphore of the system, with words of shared memory beside it.

    A process takes the semaphore and then records in the words that it has it.  Before it gives
    the semaphore back it clears them.  So whoever is recorded has it; somebody who is not may
    have it as well, for a moment, or for ever if the process dies in that moment.
    """

    __slots__ = ("_method", "_pid", "_plain", "_semaphore", "_semlock", "_shared", "_take", "_words")

    def _create(
        self, context: BaseContext | str | None, kind: int, value: int, maxvalue: int, words: int
    ) -> None:
        method = resolve_context(context).get_start_method()
        self._build(method, SharedSemaphore.create(method, kind, value, maxvalue), shared_words(words))
        self._register()

    def _build(self, method: str, semaphore: SharedSemaphore, shared: SharedWords) -> None:
        self._method = method  # by which the processes start that share the lock
        self._semaphore, self._shared, self._words = semaphore, shared, shared.view
        self._semlock = semaphore.semlock  # the view for who takes and releases the lock; Condition uses it
        self._plain = semaphore.plain  # the view for all else
        self._take = self._semlock.acquire  # to have it at hand saves time; with release it does not
        self._pid = os.getpid()

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        method, semaphore, shared = parts
        self._build(method, SharedSemaphore.open(semaphore), shared)

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return self._method, self._semaphore.state(), self._shared

    @property
    @override
    def only_by_fork(self) -> bool:
        return self._method == "fork"

    @override
    def locked(self) -> bool:
        return bool(self._semaphore.is_zero())

    @property
    @override
    def abandoned(self) -> bool:
        return bool(self._words[ABANDONED])

    @override
    def mark_consistent(self) -> None:
        self._words[ABANDONED] = 0

    def _wait(self, take: Callable[..., bool]) -> bool:
        """Call *take*, which takes the semaphore and has just not got it, until it has; return True.

        Raises:
            DeadlockError: The wait can never end.
            PoolLockError: Who has it has ended, and so has the parent of this process, which would free it.
        """
        for _ in range(_TRIES):
            if take(False):  # noqa: FBT003 - it takes no keyword for it
                return True
        waiting.wait(self, partial(take, True), self._check_parent)  # noqa: FBT003 - the same
        return True

    def _check_parent(self) -> None:
        """Raise if nobody is left to free the lock."""
        parent = dead_parent()
        holders = {*self.holders}
        if parent and holders and all(pid == parent or is_gone(pid) for pid in holders):
            raise PoolLockError(
                f"{describe()} waits for a lock that process {', '.join(map(str, holders))} had when it "
                f"was killed, and the process of the pool, pid {parent}, is gone too: nobody is left to "
                "free it"
            )

    def _after_fork(self) -> None:
        """Begin anew in a forked process: what its parent has taken is the parent's."""
        self._pid = os.getpid()
        self._semaphore.after_fork()


def _after_fork() -> None:
    for lock in every_lock():
        if isinstance(lock, SemaphoreLock):
            lock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
