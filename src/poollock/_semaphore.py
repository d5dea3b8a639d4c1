"""Semaphore: as many places as it has, so many words that say who is in one."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.context import BaseContext
from threading import active_count
from typing import Any, final

from ._locks import ABANDONED, HOLDER, Lock, SemaphoreLock, wait_for
from ._process import resolve_context
from ._typing import override
from ._words import shared_words

_CLAIM = 0.1  # seconds to wait for the right to write the words, before a look at who has it
_CLAIMS = 50  # looks


@final
class Semaphore(SemaphoreLock):
    """``multiprocessing.Semaphore`` that knows its holders and can be sent to workers in a task.

    Args:
        value: How many may hold it at once.
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the semaphore; ``None`` is the default context.

    Raises:
        ValueError: *value* is negative.
    """

    __slots__ = ("_claims", "_value")

    _claims: Lock
    _value: int

    def __init__(self, value: int = 1, *, context: BaseContext | str | None = None) -> None:
        ctx = resolve_context(context)
        if value < 0:
            raise ValueError(f"value must be at least 0, not {value}")
        raw = ctx.Semaphore(value)
        self._assemble((ctx.get_start_method(), raw, shared_words(value + 1), Lock(context=ctx), value))
        self._register()

    @override
    def _assemble(self, parts: tuple[Any, ...]) -> None:
        *semaphore, self._claims, self._value = parts
        self._claims._is_part = True
        super()._assemble(tuple(semaphore))

    @override
    def _parts(self) -> tuple[Any, ...]:
        return *super()._parts(), self._claims, self._value

    @property
    def value(self) -> int:
        """How many may hold the semaphore at once."""
        return self._value

    def get_value(self) -> int:
        """Return how many more can take the semaphore now (not implemented on macOS)."""
        return int(self._semaphore._get_value())

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if block and timeout is None:
            wait_for(self._semaphore, self._words)
        elif not self._semaphore.acquire(block, timeout):
            return False
        try:
            self._replace_holder(0, os.getpid())
        except BaseException:
            self._semaphore.release()
            raise
        return True

    @override
    def release(self) -> None:
        """Give one place back; as in multiprocessing, whoever calls this."""
        self._replace_holder(os.getpid(), 0)
        self._semaphore.release()

    @override
    def _give_back(self) -> bool:
        count = self.holders.count(os.getpid())
        if count and active_count() > 1:
            count = int(self._is_mine())  # it was the last of this process to take a place
        for _ in range(count):
            self.release()
        return count > 0

    @override
    def _reclaim(self, pid: int) -> bool:
        self._claims._reclaim(pid)
        claimed = self._claims.acquire(timeout=_CLAIM)  # in vain if they are lost themselves
        try:
            places = [place for place, holder in enumerate(self._words) if place >= HOLDER and holder == pid]
            for place in places:
                self._words[ABANDONED] = 1
                self._words[place] = 0
                self._semaphore.release()
        finally:
            if claimed:
                self._claims.release()
        return bool(places)

    def _lost(self) -> int:
        try:
            free = self.get_value()
        except NotImplementedError:  # macOS
            free = 0 if self.locked() else self._value
        return max(0, self._value - free - len(self.holders))

    @override
    def _is_unsigned(self) -> bool:
        return self._claims._is_unsigned() or self._lost() > 0

    @override
    def _repair(self) -> None:
        self._words[ABANDONED] = 1
        if self._claims._is_unsigned():
            self._claims._repair()
            return  # who waits for them may have a place, and will sign for it
        for _ in range(self._lost()):
            self._semaphore.release()

    def _replace_holder(self, old: int, new: int) -> None:
        for _ in range(_CLAIMS):
            if self._claims.acquire(timeout=_CLAIM):
                break
            # A signal handler may use the semaphore while its own thread is in here, or have raised
            # here and left the claims taken: go on, the words only say who holds it.
            if self._claims.holder == os.getpid():
                return
        else:
            return
        try:
            holders = self._words.tolist()[HOLDER:]
            if old and old not in holders:  # given back by another than who took it
                old = next(filter(None, holders), old)
            # Released more often than taken, there are more holders than words.
            with suppress(ValueError):
                self._words[HOLDER + holders.index(old)] = new
        finally:
            self._claims.release()

    @override
    def _state(self) -> str:
        return f"{super()._state()}, {self._value} at most"
