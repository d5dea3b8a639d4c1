"""What a worker records, in memory that it shares with the pool: a ring, which a killed worker leaves behind.

A record is five words: what happened, and in which thread; the lock's key; when it began; when it
ended; and a check of these and of the record's number.  What another process has written in part,
or in another order, does not pass the check, and is read later.
"""

from __future__ import annotations

import struct
from itertools import chain
from time import monotonic
from typing import TypeAlias

from poollock._locks.base import BaseLock
from poollock._locks.shared_words import SharedWords, shared_words

# What happened: a task ended; a wait began; a lock was taken, after that wait or without one; a wait
# was given up; a lock was given back; all that the process still had of a lock was given back.
TASK, WAITS, TAKEN, GAVE_UP, RELEASED, FREED = range(6)

CAPACITY = 8192  # records
NEXT = 0  # the word with the number of the record that the pool reads next
BEGUN = 1  # that with the number of the record that the worker begins next
_FIRST = 8  # the word at which the first record begins
_WORDS = 5
WORDS = _FIRST + CAPACITY * _WORDS  # for one worker
_KIND_BITS = 8  # the rest of that word is the thread
_THREADS = 16  # so many at most have begun a record, and not yet written into that word that they have
_PATIENCE = 0.5  # seconds after which a record that is missing will not come

_record = struct.Struct(f"={_WORDS}Q")

# What happened and in which thread, which is 0 for the main thread; the lock's key; when it began, and
# when it ended, in nanoseconds of perf_counter_ns.
Record: TypeAlias = tuple[int, int, int, int]


def _place(number: int) -> int:
    """Return where the record with this number stands, in bytes."""
    return 8 * (_FIRST + number % CAPACITY * _WORDS)


def write(view: memoryview[int], number: int, record: Record) -> None:
    """Write the record with this number."""
    _record.pack_into(view, _place(number), *record, _check(number, *record))


def _check(number: int, what: int, lock: int, begin: int, end: int) -> int:
    # Shifted, because begin and end are often the same.
    return what ^ lock ^ begin ^ end << 1 ^ number + 1


def kind_and_thread(kind: int, thread: int) -> int:
    """Return what stands first in a record."""
    return kind | thread << _KIND_BITS & (1 << 64) - 1


def split(what: int) -> tuple[int, int]:
    """Return the thread and the kind of what stands first in a record."""
    return what >> _KIND_BITS, what & (1 << _KIND_BITS) - 1


def lock_key(lock: BaseLock) -> int:
    """Return what stands for *lock* in a record."""
    return int.from_bytes(lock._identity[:8], "little")


def words_for(workers: int) -> list[SharedWords]:
    """Return the memory for the records of each of so many workers."""
    return shared_words(WORDS * workers).split(WORDS)


class RecordReader:
    """The pool's end of the memory in which one worker records, and after it the one that replaces it.

    Args:
        words: The memory.

    Attributes:
        words: The memory.
    """

    def __init__(self, words: SharedWords) -> None:
        self.words = words
        self._bytes = words.view.cast("B")
        self._missing = (-1, 0.0)  # a record that was begun and is not there; since when

    def take(self, *, ended: bool = False) -> list[Record]:
        """Return the records that are new; with *ended*, the worker has ended, and another may follow."""
        view = self.words.view
        found: list[Record] = []
        number, begun = view[NEXT], view[BEGUN]
        if ended:
            begun += _THREADS
        middle = _place(number)
        parts = self._bytes[middle:], self._bytes[_place(0) : middle]
        for what, lock, begin, end, check in chain(*map(_record.iter_unpack, parts)):
            if number >= begun:
                break
            if check == what ^ lock ^ begin ^ end << 1 ^ number + 1:  # _check, without the call
                found.append((what, lock, begin, end))
            elif not ended and not self._is_lost(number):
                break
            number += 1
        if ended:  # what the next worker records cannot be taken for old ones
            number += CAPACITY
            view[BEGUN] = number
        view[NEXT] = number
        return found

    def _is_lost(self, number: int) -> bool:
        """Return whether a record will never come: signal handlers have raised while it was written.

        Another thread may have begun it, and not run for a while.
        """
        missing, since = self._missing
        if missing != number:
            self._missing = number, monotonic()
            return False
        return monotonic() - since > _PATIENCE
