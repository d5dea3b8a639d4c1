"""A row of the picture: one worker, and after it the one that replaces it."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from functools import lru_cache
from time import perf_counter_ns
from typing import NamedTuple, TypeAlias

from .records import GAVE_UP, RELEASED, TAKEN, TASK, WAITS, Record, RecordReader, split
from .trace_file import TraceFile

_A_LITTLE = 1000  # nanoseconds
_ROWS = 1000  # numbers for the rows of one worker

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
    """

    def __init__(self, file: TraceFile, number: int) -> None:
        self.reader = RecordReader()
        self.number = number
        self._file = file
        self._pid = 0  # of the last worker
        self._ended: deque[TaskEnd] = deque()  # tasks that the pool knows to have ended
        self._recorded: deque[tuple[int, int]] = deque()  # those of which it has recorded when that was
        self._waits: dict[tuple[int, int], int] = {}  # since when, by thread and lock
        self._holds: dict[int, list[_Hold]] = defaultdict(list)  # by thread; the last taken comes last
        self._rows = {0: number}  # by thread, those of the other threads
        file.name_row(number, f"worker {number}")

    def started(self, pid: int) -> None:
        """Take in that a worker was started."""
        what = f"worker {pid} replaces {self._pid}" if self._pid else f"worker {pid} starts"
        self._pid = pid
        self._file.mark(self.number, what, perf_counter_ns(), {"pid": pid})

    def mark(self, what: str) -> None:
        """Take in that something has just happened to the worker."""
        self._file.mark(self.number, what, perf_counter_ns(), {"pid": self._pid})

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
            begun: When the first of them began.
            how: What the mark says, if there is to be one.
        """
        now = perf_counter_ns()
        self._take_in(self.reader.take(ended=True))
        for thread, lock in list(self._waits):
            self._end_wait(thread, lock, now, taken=False)
        for thread in list(self._holds):
            self._free(thread, 0, now)
        begin = now if begun is None else begun
        for task in tasks:
            # It may have recorded the end of its task, and not have sent all of the outcome.  Else the task
            # ends a little later than what it held, for readers that round.
            times = self._recorded.popleft() if self._recorded else (begin, now + _A_LITTLE)
            self._add_task(task, times)
            begin = now
        self._recorded.clear()
        self._ended.clear()
        if how:
            self._file.mark(self.number, how, now, {"pid": self._pid})

    def _take_in(self, records: list[Record]) -> None:
        for what, lock, begin, end in records:
            thread, kind = split(what)
            if kind == TASK:
                self._recorded.append((begin, end))
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
        self._file.span(self.number, "task", _json(name), times, args)

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
        again = any(hold[0] == lock for hold in holds) and not self._file.is_semaphore(lock)
        holds.append((lock, end, again))

    def _released(self, thread: int, lock: int, end: int) -> None:
        # Another thread may release it than the one that took it.  Who else does is not known here.
        for each in (thread, *self._holds):
            holds = self._holds[each]
            for hold in reversed(holds):
                if hold[0] == lock:
                    self._end_hold(each, holds, hold, end)
                    return

    def _free(self, thread: int, lock: int, end: int) -> None:
        """End the holds of a thread: those of one lock or, with 0, all of them."""
        holds = self._holds[thread]
        for hold in holds[::-1]:
            if lock in {0, hold[0]}:
                self._end_hold(thread, holds, hold, end)

    def _end_hold(self, thread: int, holds: list[_Hold], hold: _Hold, end: int) -> None:
        is_last = hold is holds[-1]
        holds.remove(hold)
        lock, begin, again = hold
        if again:
            return
        name = self._file.lock_name(lock)
        # The spans of a row have to lie within each other: one that does not has a row of its own.
        row = self._row(thread) if is_last else self._row(-lock, name)
        self._file.span(row, "hold", _json(f"holds {name}"), (begin, end), f'{{"lock":{_json(name)}}}')

    def _row(self, key: int, what: str = "another thread") -> int:
        """Return the number of a row: of a thread of the worker, or of what else has one."""
        if key not in self._rows:
            self._rows[key] = number = _ROWS * self.number + len(self._rows)
            self._file.name_row(number, f"worker {self.number}, {what}")
        return self._rows[key]
