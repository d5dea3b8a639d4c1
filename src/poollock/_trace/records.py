"""What a worker records, in memory that it shares with the pool: a ring, which a killed worker leaves behind.

A record is five words: what happened, and in which thread; the lock's key; when it began; when it
ended; and, written last, the number of the record, by which the pool knows that all of it is there.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import TypeAlias

from poollock._locks.base import BaseLock
from poollock._locks.shared_words import SharedWords, shared_words

# What happened: a task ended; a wait began; a lock was taken, after that wait or without one; a wait
# was given up; a lock was given back; all that the process still had of a lock was given back.
TASK, WAITS, TAKEN, GAVE_UP, RELEASED, FREED = range(6)

NOTHING = (GAVE_UP, 0, 0, 0)  # a record that says nothing: of no lock

CAPACITY = 8192  # records
NEXT = 0  # the word with the number of the record that the pool reads next
_FIRST = 8  # the word at which the first record begins
_WORDS = 5
_KIND_BITS = 8  # the rest of that word is the thread
_LOOK_AHEAD = 16

_record = struct.Struct(f"={_WORDS}Q")
pack_record = _record.pack_into

# What happened and in which thread, which is 0 for the main thread; the lock's key; when it began, and
# when it ended, in nanoseconds of perf_counter_ns.
Record: TypeAlias = tuple[int, int, int, int]


def place(number: int) -> int:
    """Return where the record with this number stands, in bytes."""
    return 8 * (_FIRST + number % CAPACITY * _WORDS)


def kind_and_thread(kind: int, thread: int) -> int:
    """Return what stands first in a record."""
    return kind | thread << _KIND_BITS & (1 << 64) - 1


def split(what: int) -> tuple[int, int]:
    """Return the thread and the kind of what stands first in a record."""
    return what >> _KIND_BITS, what & (1 << _KIND_BITS) - 1


def lock_key(lock: BaseLock) -> int:
    """Return what stands for *lock* in a record."""
    return int.from_bytes(lock._identity[:8], "little")


class RecordReader:
    """The pool's end of the memory in which one worker records, and after it the one that replaces it.

    Attributes:
        words: The memory.
    """

    def __init__(self) -> None:
        self.words: SharedWords = shared_words(_FIRST + CAPACITY * _WORDS)
        self._bytes = self.words.view.cast("B")
        self._missing = -1  # a record that was not there the last time, though a later one was

    def take(self, *, ended: bool = False) -> list[Record]:
        """Return the records that are new; with *ended*, the worker has ended, and another may follow."""
        view = self.words.view
        found: list[Record] = []
        number = view[NEXT]
        middle = place(number)
        parts = self._bytes[middle:], self._bytes[place(0) : middle]
        for what, lock, begin, end, stamp in chain(*map(_record.iter_unpack, parts)):
            if stamp == number + 1:
                found.append((what, lock, begin, end))
            elif not self._is_lost(number, ended=ended):
                break
            number += 1
        view[NEXT] = number + CAPACITY * ended  # what the next worker records cannot be taken for old ones
        return found

    def _is_lost(self, number: int, *, ended: bool) -> bool:
        """Return whether a record will never come: signal handlers have raised, or the worker has ended."""
        later = range(number + 1, number + _LOOK_AHEAD)
        if not any(_record.unpack_from(self._bytes, place(each))[-1] == each + 1 for each in later):
            return False
        before, self._missing = self._missing, number
        return ended or before == number
