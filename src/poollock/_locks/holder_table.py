"""Which processes have places of a Semaphore: a row of shared memory for each process that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress
from typing import Any, NamedTuple

from poollock._backend.process import is_gone

from .shared_words import SharedWords

_ROW = 8  # words; a cache line, so that two processes do not slow each other down
_PID, _MAIN, _THREADS, _REST, _RETURNED, _ADDED = range(6)  # where each word of a row stands
_ROWS = 1023
_HALF = 1 << 31

SIZE = _ROW * (1 + _ROWS)  # words; those before the first row are for somebody else

# What a process writes to that has no row.
_NOWHERE: Any = memoryview(bytearray(8)).cast("q", shape=())


class _Row(NamedTuple):
    """A row.

    Attributes:
        start: Where it begins.
        pid: Whose it is.
        places: How many places that process has taken and not released.
        returned: How many of these another process has released.
    """

    start: int
    pid: int
    places: int
    returned: int


class HolderTable:
    """How many places of a semaphore this process has, and a table for all to see that.

    The row of a process is the one that its pid gives, or the next one that is free.  Its words are

    - the pid;
    - how many places the main thread has;
    - how many the other threads have;
    - a rest: how many places were counted in these two words that are no longer;
    - how many of all these another process has released;
    - how many more this process has released when none was taken: they were added to the semaphore.

    While the process lives it alone writes to its row, without a lock; but for what others
    released, which is written under one.

    With the rest goes the pid of the process for which it was written.  If that is not the row's
    pid, the two counts are part of the rest already: one store moves them there.  So none is lost
    or counted twice if the process that does it is killed.

    Attributes:
        main_places: How many places the main thread has.
        main_word: The word in which to write that: ``table.main_places = table.main_word[...] = 1``.
        thread_places: How many the other threads have.
        thread_word: The word in which to write that.
    """

    __slots__ = ("_shared", "_start", "_words", "main_places", "main_word", "thread_places", "thread_word")

    _start: int  # of this process's row; 0 if it has none

    def __init__(self, shared: SharedWords) -> None:
        self._shared, self._words = shared, shared.view
        self.forget()

    def forget(self) -> None:
        """Have no places and no row, as a process that was forked."""
        self.main_places = self.thread_places = self._start = 0
        self.main_word = self.thread_word = _NOWHERE

    def claim(self, pid: int) -> None:
        """Have a row; *pid* is that of this process.

        Raises:
            RuntimeError: There is none left.
        """
        with self._shared.exclusive():
            start = self._find(pid)
            self._take(start, pid, self._shared.word(start + _MAIN), self._shared.word(start + _THREADS))

    def _find(self, pid: int) -> int:
        for number in range(_ROWS):
            row = self._read(_ROW * (1 + (pid + number) % _ROWS))
            # A dead process that has places is left for who recovers them.
            if row.places <= row.returned and (row.pid in {0, pid} or is_gone(row.pid)):
                return row.start
        raise RuntimeError(f"a semaphore cannot be used by more than {_ROWS} processes at a time")

    def _take(self, start: int, pid: int, main_word: Any, thread_word: Any) -> None:
        # Nothing is called in here, so no other thread and no signal handler runs in between.
        if self._start:  # one has claimed a row in the middle of this, and may have places
            return
        words = self._words
        rest = words[start + _REST]
        written_for = (rest + _HALF) >> 32
        rest -= written_for << 32
        if written_for == words[start + _PID]:
            rest += words[start + _MAIN] + words[start + _THREADS]
        words[start + _REST] = rest  # for nobody
        words[start + _MAIN] = 0
        words[start + _THREADS] = 0
        words[start + _REST] = rest + (pid << 32)
        words[start + _PID] = pid
        self._start, self.main_word, self.thread_word = start, main_word, thread_word

    def settle(self, *, threads: bool) -> None:
        """Have no places in the main thread, or in all *threads*: another process has released them."""
        # Nothing is called in here, as in _take.
        words, start = self._words, self._start
        rest, pid = words[start + _REST], words[start + _PID]
        counted = words[start + _MAIN] + words[start + _THREADS]
        words[start + _REST] = rest + counted - (pid << 32)  # for nobody
        gone, self.main_places = self.main_places, 0
        if threads:
            gone, self.thread_places = gone + self.thread_places, 0
        words[start + _MAIN] = 0
        words[start + _THREADS] = self.thread_places
        words[start + _REST] = rest + gone

    def release_anothers(self, post: Callable[[], None]) -> None:
        """Release a place that this process does not have, by *post*, which is a function written in C."""
        with self._shared.exclusive():
            taken = next((row.start for row in self._rows() if row.places > row.returned), 0)
            self._words[taken + _RETURNED if taken else self._start + _ADDED] += 1
            post()

    def _read(self, start: int) -> _Row:
        pid, main, threads, rest, returned, _ = self._words[start : start + 6].tolist()
        written_for = (rest + _HALF) >> 32
        returned -= rest - (written_for << 32)
        return _Row(start, pid, main + threads if written_for == pid else 0, returned)

    def _rows(self) -> Iterator[_Row]:
        pids = self._words[_ROW + _PID :: _ROW].tolist()
        return map(self._read, compress(range(_ROW, SIZE, _ROW), pids))

    @property
    def returned(self) -> int:
        """How many of the places of this process another one has released."""
        return self._read(self._start).returned

    def added(self) -> int:
        """Return how many places the semaphore has that it did not have at first."""
        return sum(self._words[_ROW + _ADDED :: _ROW].tolist())

    def taken(self) -> int:
        """Return how many places are taken."""
        return sum(row.places - row.returned for row in self._rows())

    def holders(self) -> dict[int, int]:
        """Return the pids of the processes that have places, and how many."""
        held: dict[int, int] = {}
        for row in self._rows():
            if row.places > row.returned:
                held[row.pid] = held.get(row.pid, 0) + row.places - row.returned
        return held

    def recover(self, pid: int) -> int:
        """Take its places from the process *pid*, which is dead.

        Returns:
            How many it had: they are to be released.
        """
        held = 0
        for row in self._rows():
            if row.pid == pid:
                held += max(0, row.places - row.returned)
                self._words[row.start + _REST] = self._words[row.start + _RETURNED]  # for nobody
        return held
