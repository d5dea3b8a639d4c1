"""Which processes have places of a Semaphore: a row of shared memory for each process that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from typing import Any, NamedTuple

from poollock._backend.process import is_gone

from .shared_words import SharedWords

_ROW = 8  # words; a cache line, so that two processes do not slow each other down
_PID, _MAIN, _THREADS, _REST, _RELEASED, _ADDED = range(6)  # where each word of a row stands
_ROWS = 1023
_HALF = 1 << 31

SIZE = _ROW * (1 + _ROWS)  # words; those before the first row are for somebody else

# What a process writes to that has no row.
_NOWHERE: Any = memoryview(bytearray(8)).cast("q", shape=())


class _Row(NamedTuple):
    start: int
    pid: int
    places: int
    released: int


class HolderTable:
    """How many places of a semaphore this process has, and a table for all to see that.

    The row of a process is the one that its pid gives, or the next one that is free.  While the
    process lives nobody else writes to it, so no lock is needed.  Its words are

    - the pid;
    - how many places the main thread has;
    - how many the other threads have;
    - a rest: how many the processes that had the row have been counted for until now, and have
      no more, because another process released them;
    - how many places of other processes were released by those that had the row;
    - how many were released when all were free, and so were added to the semaphore.

    With the rest goes the pid of the process for which it was written.  If it is not the row's
    pid, the two counts before it are part of the rest already: one store moves them there.  So
    nothing is lost or counted twice if the process that does it is killed.

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
            row = self._find(pid)
            self._take(
                row.start, pid, self._shared.word(row.start + _MAIN), self._shared.word(row.start + _THREADS)
            )

    def _find(self, pid: int) -> _Row:
        for number in range(_ROWS):
            row = self._read(_ROW * (1 + (pid + number) % _ROWS))
            # A dead process that has places is left for who recovers them.
            if not row.places and (row.pid in {0, pid} or is_gone(row.pid)):
                return row
        raise RuntimeError(f"a semaphore cannot be used by more than {_ROWS} processes at a time")

    def _take(self, start: int, pid: int, main_word: Any, thread_word: Any) -> None:
        # Nothing is called in here, so no other thread and no signal handler runs in between.
        if self._start:  # one has claimed a row in the middle of this, and may have places
            return
        words = self._words
        rest = words[start + _REST]
        words[start + _MAIN] = 0  # unless it was part of the rest already
        words[start + _THREADS] = 0
        words[start + _REST] = rest + ((pid - ((rest + _HALF) >> 32)) << 32)
        words[start + _PID] = pid
        self._start, self.main_word, self.thread_word = start, main_word, thread_word

    def settle(self, *, threads: bool) -> None:
        """Have no places in the main thread, or in all *threads*: another process has released them."""
        # Nothing is called in here, as in _take.
        words, start = self._words, self._start
        gone = self.main_places
        if threads:
            gone += self.thread_places
            self.thread_places = 0
        self.main_places = 0
        rest = words[start + _REST]
        counted = words[start + _MAIN] + words[start + _THREADS]
        pid = words[start + _PID]
        words[start + _REST] = rest + counted - (pid << 32)  # for nobody
        words[start + _MAIN] = 0
        words[start + _THREADS] = self.thread_places
        words[start + _REST] = rest + gone

    def release_anothers(self) -> None:
        """Record that a place is released which this process does not have."""
        word = self._start + (_RELEASED if self.taken() > 0 else _ADDED)
        self._words[word] += 1

    def _read(self, start: int) -> _Row:
        pid, main, threads, rest, released, _ = self._words[start : start + 6].tolist()
        written_for = (rest + _HALF) >> 32
        return _Row(
            start, pid, main + threads if written_for == pid else 0, released - rest + (written_for << 32)
        )

    def _rows(self) -> Iterator[_Row]:
        pids = self._words[_ROW + _PID :: _ROW].tolist()
        return map(self._read, compress(range(_ROW, SIZE, _ROW), pids))

    def added(self) -> int:
        """Return how many places the semaphore has that it did not have at first."""
        return sum(self._words[_ROW + _ADDED :: _ROW].tolist())

    def taken(self) -> int:
        """Return how many places are taken."""
        return sum(row.places - row.released for row in self._rows())

    def holders(self) -> dict[int, int]:
        """Return the pids of the processes that have places, and how many.

        Who releases what another took does not say whose it was: it is the first one's that has any.
        """
        return self._holders([*self._rows()])

    def _holders(self, rows: list[_Row]) -> dict[int, int]:
        released = sum(row.released for row in rows)
        held: dict[int, int] = {}
        for row in rows:
            places = max(row.places - max(released, 0), 0)
            released -= row.places
            if places:
                held[row.pid] = held.get(row.pid, 0) + places
        return held

    def missing(self, pid: int) -> int:
        """Return how many places of the process *pid* another one has released."""
        rows = [*self._rows()]  # once, since other threads take places meanwhile
        return sum(row.places for row in rows if row.pid == pid) - self._holders(rows).get(pid, 0)

    def recover(self, pid: int) -> int:
        """Take its row from the process *pid*, which is dead.

        Returns:
            How many places it had, which are to be released.
        """
        held = recovered = self.holders().get(pid, 0)
        for row in self._rows():
            if row.pid == pid and row.places:
                rest = self._words[row.start + _REST] - (pid << 32) + row.places - recovered
                self._words[row.start + _REST] = rest  # for nobody
                recovered = 0
        return held
