"""Semaphore: as many places as it has, so many words that say who is in one."""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from itertools import compress, starmap
from multiprocessing.context import BaseContext
from threading import get_ident
from typing import Any, final

from poollock._backend.context import resolve_context
from poollock._backend.process import other_threads
from poollock._checks import check_size
from poollock._typing import override

from .lock import ABANDONED, HOLDER, Lock, SemaphoreLock, in_one_step, wait_for
from .shared_words import shared_words

_PATIENCE = 5.0  # seconds to wait for the right to write the words
_MOMENT = 0.1  # seconds, if who has it may be dead


class _Place:
    """One that this process has taken.

    Attributes:
        word: What the word that says so holds, a pid; 0 if there is none.
        kept: Whether the acquire that took it is done.
    """

    __slots__ = ("kept", "word")

    def __init__(self, word: int = 0) -> None:
        self.kept, self.word = False, word


@final
class Semaphore(SemaphoreLock):
    """``multiprocessing.Semaphore`` that knows its holders and can be sent to workers in a task.

    Args:
        value: How many may hold it at once.
        context: The multiprocessing context, or the name of the start method, of the processes
            that will share the semaphore; ``None`` is the default context.

    Raises:
        TypeError: *value* is no int, or *context* is neither a context nor a name.
        ValueError: *value* is negative.
    """

    __slots__ = ("_claims", "_late", "_takers", "_value")

    _claims: Lock
    _late: deque[_Place]  # whose words are to be brought up to date, the oldest first
    _takers: dict[_Place, int]  # of the places that this process has, the threads that took them
    _value: int

    def __init__(self, value: int = 1, *, context: BaseContext | str | None = None) -> None:
        ctx = resolve_context(context)
        value = check_size("value", value)
        raw = ctx.Semaphore(value)
        self._set_state((ctx.get_start_method(), raw, shared_words(value + 1), Lock(context=ctx), value))
        self._register()

    @override
    def _set_state(self, parts: tuple[Any, ...]) -> None:
        *semaphore, self._claims, self._value = parts
        self._claims._is_part = True
        self._late = deque()
        self._takers = {}
        super()._set_state(tuple(semaphore))

    @override
    def _get_state(self) -> tuple[Any, ...]:
        return *super()._get_state(), self._claims, self._value

    @property
    def value(self) -> int:
        """How many may hold the semaphore at once."""
        return self._value

    def get_value(self) -> int:
        """Return how many more can take the semaphore now (not implemented on macOS)."""
        return int(self._semaphore._get_value())

    @override
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        self._drop_released_elsewhere()
        place, took = _Place(), list[int]()

        def take(block: bool, timeout: float | None) -> bool:  # noqa: FBT001 - multiprocessing's
            taken = compress([(place, get_ident())], map(self._semaphore.acquire, [block], [timeout]))
            took.extend(starmap(self._takers.setdefault, taken))  # in one step
            return bool(took)

        try:
            if block and timeout is None:
                wait_for(take, self._words)
            elif not take(block, timeout):
                return False
            self._write(place)
            place.kept = True
        except BaseException:  # of a signal handler, say: how far has it come?
            if took and not self._release(place):  # so another has given it back
                self._write()
            raise
        return True

    @override
    def release(self) -> None:
        """Give one place back; as in multiprocessing, whoever calls this."""
        me = get_ident()

        def later(taker: tuple[_Place, int]) -> tuple[bool, bool]:
            place, thread = taker
            return not place.kept, thread != me  # an acquire that is interrupted may give its own back itself

        last_first = [*self._takers.copy().items()][::-1]
        if any(map(self._release, [place for place, _ in sorted(last_first, key=later)])):
            return
        others = [pid for pid in self.holders if pid != os.getpid()]
        another = _Place((*others, os.getpid())[0])  # another process has taken it
        self._release(another, {another: me})  # it is in no list where another thread would find it

    def _release(self, place: _Place, takers: dict[_Place, int] | None = None) -> bool:
        """Give *place* back, unless another thread does; return whether this one did."""
        takers = self._takers if takers is None else takers
        taken = list[int | None]()
        try:
            taken.extend(map(takers.pop, [place], [None]))  # in one step
            self._leave(place, taken)
        except BaseException:  # as above; the rest is done all the same
            self._leave(place, taken)
            raise
        return taken != [None]

    def _leave(self, place: _Place, taken: list[int | None]) -> None:
        if taken and taken[-1] is not None:
            self._write(place)
            in_one_step(self._semaphore.release, partial(taken.append, None))

    def _drop_released_elsewhere(self) -> None:
        """Forget places that another process has given back, the oldest first.

        Other threads go on meanwhile: only places that are signed all the time are compared.
        """
        before = {place for place in [*self._takers] if place.word and place.kept}
        if not before:
            return
        words = self._signed()
        stayed = [place for place in [*self._takers] if place.word and place in before]
        for gone in stayed[: max(0, len(stayed) - words)]:
            self._takers.pop(gone, None)

    def _signed(self) -> int:
        return self._words.tolist()[HOLDER:].count(os.getpid())

    @override
    def _release_if_held(self) -> bool:
        others = other_threads()
        left = [place for place, taker in self._takers.copy().items() if taker not in others]
        self._write()
        left = left[: self._signed()]  # another process may have given some back
        for place in left:
            self._release(place)
        return bool(left)

    @override
    def _after_fork(self) -> None:
        super()._after_fork()
        for place in {*self._takers, *self._late}:
            place.word = 0  # it is the parent's
        self._takers = {}

    @override
    def _recover(self, pid: int) -> bool:
        self._claims._recover(pid)
        claimed = self._claims.acquire(timeout=_MOMENT)  # in vain if they are lost themselves
        try:
            places = [place for place, holder in enumerate(self._words) if place >= HOLDER and holder == pid]
            for place in places:
                self._words[ABANDONED] = 1
                self._words[place] = 0
                self._semaphore.release()
        finally:
            if claimed:
                self._claims.release()
        self._write()
        return bool(places)

    def _lost(self) -> int:
        try:
            free = self.get_value()
        except NotImplementedError:  # macOS
            free = 0 if self.locked() else self._value
        return max(0, self._value - free - len(self.holders))

    @override
    def _is_unrecorded(self) -> bool:
        return self._claims._is_unrecorded() or self._lost() > 0

    @override
    def _force_release(self) -> None:
        self._words[ABANDONED] = 1
        if self._claims._is_unrecorded():
            self._claims._force_release()
            return  # who waits for them may have a place, and will sign for it
        for _ in range(self._lost()):
            self._semaphore.release()

    def _write(self, *places: _Place) -> None:
        """Bring the words of *places* up to date, and those that could not be until now."""
        self._late.extend(places)
        while self._late and not self._claims._is_mine():  # else this is a signal handler in the middle of it
            try:
                if not self._claims.acquire(timeout=_PATIENCE):
                    return  # the words only say who holds it
                while self._late:
                    self._update(self._late[0])
                    self._late.popleft()
                if self._claims._is_mine():  # else this process was forked in the middle of it
                    self._claims.release()
            except BaseException:
                if self._claims._is_mine():
                    self._claims.release()
                raise

    def _update(self, place: _Place) -> None:
        old, new = place.word, os.getpid() if place in self._takers else 0
        if old == new:
            return
        holders = self._words.tolist()[HOLDER:]
        if old and old not in holders:  # given back by another than who took it
            old = next(filter(None, holders), old)
        if old in holders:  # released more often than taken, there are more holders than words
            write = partial(self._words.__setitem__, HOLDER + holders.index(old), new)
            in_one_step(write, partial(setattr, place, "word", new))

    @override
    def _state(self) -> str:
        return f"{super()._state()}, {self._value} at most"
