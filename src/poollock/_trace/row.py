"""A row of the picture: one worker, and after it the one that replaces it."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from functools import lru_cache
from time import perf_counter_ns
from typing import NamedTuple, TypeAlias

from poollock._locks.shared_words import SharedWords

from .records import GAVE_UP, RELEASED, TAKEN, TASK, WAITS, Record, RecordReader, split
from .trace_file import TraceFile

_A_LITTLE = 1000  # nanoseconds
_ROWS = 1000  # numbers for the rows of one worker
_MOST_HOLDS = 100  # of one thread at a time: if there are more, others have ended the oldest

_json = lru_cache(json.dumps)  # of names, of which there are few


class TaskEnd(NamedTuple):
    """A task that has ended.

    Attributes:
        name: What its function is called.
        items: Which items of an iterable it had; None if it was a single call.
        ended: How it ended: ``ok``, or an error.
    """

    name: str
    items: range | None
    ended: str = "ok"


# A lock; since when a thread has it; whether it had it already, as with an RLock.
_Hold: TypeAlias = tuple[int, int, bool]


class Row:
    """Makes events of what one worker records, and of what the pool knows of it.

    Args:
        file: Gets the events.
        number: The number of the row, from 1.
        words: The memory in which the worker records.
    """

    def __init__(self, file: TraceFile, number: int, words: SharedWords) -> None:
        self.reader = RecordReader(words)
        self._file = file
        self._number = number
        self._pid = 0  # of the last worker
        self._ended: deque[TaskEnd] = deque()  # tasks that the pool knows to have ended
        self._recorded: deque[tuple[int, int]] = deque()  # those of which it has recorded when that was
        self._last_end = 0  # of a task
        self._waits: dict[tuple[int, int], int] = {}  # since when, by thread and lock
        self._holds: dict[int, list[_Hold]] = defaultdict(list)  # by thread; the last taken comes last
        # For holds that lie across others: by lock, when the last one in each of their rows ended.
        self._beside: dict[str, list[int]] = defaultdict(list)
        self._rows: dict[int | str, int] = {0: number}  # by thread, or by what else has one
        file.name_row(number, f"worker {number}")

    def started(self, pid: int) -> None:
        """Take in that a worker was started."""
        what = f"worker {pid} replaces {self._pid}" if self._pid else f"worker {pid} starts"
        self._pid = pid
        self.mark(what)

    def mark(self, what: str) -> None:
        """Take in that something has just happened to the worker."""
        self._file.mark(self._number, what, perf_counter_ns(), {"pid": self._pid})

    def tasks_ended(self, tasks: list[TaskEnd]) -> None:
        """Take in that the worker has sent the outcomes of *tasks*."""
        self._ended += tasks
        self.update()

    def update(self) -> int:
        """Take in what the worker has recorded; return how many records that were."""
        records = self.reader.take()
        self._take_in(records)
        return len(records)

    def worker_ended(self, tasks: list[TaskEnd], begun: int | None, how: str) -> None:
        """Take in that the worker has ended.

        Args:
            tasks: What it ran then, and whoever waits has an error for.
            begun: When the first of them began, or somewhat earlier.
            how: What the mark says, if there is to be one.
        """
        now = perf_counter_ns()
        self._take_in(self.reader.take(ended=True))
        for thread, lock in list(self._waits):
            self._end_wait(thread, lock, now, taken=False)
        held = sorted({self._file.lock_name(lock) for holds in self._holds.values() for lock, _, _ in holds})
        for thread in list(self._holds):
            self._free(thread, 0, now)
        begin = now if begun is None else max(begun, self._last_end)
        for task in tasks:
            # It may have recorded the end of its task, and not have sent all of the outcome.  Else the task
            # ends a little later than what it held, for readers that round.
            times = self._recorded.popleft() if self._recorded else (begin, now + _A_LITTLE)
            self._add_task(task, times)
            begin, self._last_end = now, times[1]
        self._recorded.clear()
        self._ended.clear()
        if how:
            had = f", and had {', '.join(held)}" if held else ""
            self._file.mark(self._number, how + had, now, {"pid": self._pid})

    def _take_in(self, records: list[Record]) -> None:
        for what, lock, begin, end in records:
            thread, kind = split(what)
            if kind == TASK:
                self._recorded.append((begin, end))
                self._last_end = end
            elif kind == TAKEN:
                self._taken(thread, lock, end)
            elif kind == RELEASED:
                self._released(thread, lock, end)
            elif kind == WAITS:
                self._waits[thread, lock] = begin
                self._file.waits(begin, self._file.lock_name(lock), 1)
            elif kind == GAVE_UP:
                self._end_wait(thread, lock, end, taken=False)
            else:
                self._free(thread, lock, end)
        while self._ended and self._recorded:
            self._add_task(self._ended.popleft(), self._recorded.popleft())

    def _add_task(self, task: TaskEnd, times: tuple[int, int]) -> None:
        name, items, ended = task
        if items is None:
            which = ""
        elif len(items) == 1:
            which = f'"item":{items[0]},'
        else:
            which = f'"items":"{items[0]} to {items[-1]}",'
        args = f'{{{which}"ended":{_json(ended)},"pid":{self._pid}}}'
        self._file.span(self._number, "task", _json(name), times, args)

    def _end_wait(self, thread: int, lock: int, end: int, *, taken: bool) -> None:
        begin = self._waits.pop((thread, lock), None)
        if begin is None:
            return
        name = self._file.lock_name(lock)
        self._file.waits(end, name, -1)
        args = f'{{"lock":{_json(name)},"taken":{"true" if taken else "false"}}}'
        self._file.span(self._row(thread), "wait", _json(f"waits for {name}"), (begin, end), args)

    def _taken(self, thread: int, lock: int, end: int) -> None:
        if self._waits:
            self._end_wait(thread, lock, end, taken=True)
        holds = self._holds[thread]
        has_it = any(hold[0] == lock for hold in holds)
        # Else a process that records nothing has released it.
        if has_it and not self._file.can_be_held_again(lock):
            self._free(thread, lock, end)
        if len(holds) >= _MOST_HOLDS:
            self._end_hold(thread, holds, holds[0], end)
        holds.append((lock, end, has_it and self._file.is_recursive(lock)))

    def _released(self, thread: int, lock: int, end: int) -> None:
        """End a hold: of that thread, or of another one, or of another worker."""
        holds = self._holds[thread]
        for hold in reversed(holds):
            if hold[0] == lock:
                self._end_hold(thread, holds, hold, end)
                return
        for row in (self, *self._file.rows):
            if row._end_oldest(lock, end):
                return

    def _end_oldest(self, lock: int, end: int) -> bool:
        """End the oldest hold of a lock, which somebody else has released; return whether there is one."""
        for thread, holds in self._holds.items():
            for hold in holds:
                if hold[0] == lock and hold[1] <= end:
                    self._end_hold(thread, holds, hold, end, by_others=True)
                    return True
        return False

    def _free(self, thread: int, lock: int, end: int) -> None:
        """End the holds of a thread: those of one lock or, with 0, all of them."""
        holds = self._holds[thread]
        for hold in holds[::-1]:
            if lock in {0, hold[0]}:
                self._end_hold(thread, holds, hold, end)

    def _end_hold(
        self, thread: int, holds: list[_Hold], hold: _Hold, end: int, *, by_others: bool = False
    ) -> None:
        is_last = hold is holds[-1]
        holds.remove(hold)
        lock, begin, again = hold
        if again:
            return
        name = self._file.lock_name(lock)
        # The spans of a row have to lie within each other: one that may not has a row beside it.
        is_within = is_last and not by_others and (thread or begin >= self._last_end)
        row = self._row(thread) if is_within else self._row_beside(name, begin, end)
        self._file.span(row, "hold", _json(f"holds {name}"), (begin, end), f'{{"lock":{_json(name)}}}')

    def _row_beside(self, name: str, begin: int, end: int) -> int:
        """Return the number of a row for a hold that may lie across others."""
        ends = self._beside[name]
        for place, last in enumerate(ends):
            if last <= begin:
                ends[place] = end
                break
        else:
            place = len(ends)
            ends.append(end)
        return self._row(f"holds of {name}" + (f" ({place + 1})" if place else ""))

    def _row(self, key: int | str) -> int:
        """Return the number of a row: of a thread of the worker, or of what else has one."""
        if key not in self._rows:
            self._rows[key] = number = _ROWS * self._number + len(self._rows) % _ROWS
            what = "another thread" if isinstance(key, int) else key
            self._file.name_row(number, f"worker {self._number}, {what}")
        return self._rows[key]
