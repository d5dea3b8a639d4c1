"""A row of the picture: one worker, and after it the one that replaces it."""

from __future__ import annotations

import json
from collections import deque
from functools import lru_cache
from time import perf_counter_ns
from typing import NamedTuple

from .records import FREED, GAVE_UP, RELEASED, TAKEN, TASK, WAITS, Record, RecordReader
from .trace_file import TraceFile

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


class _Hold(NamedTuple):
    lock: int
    begin: int
    again: bool  # its thread had it already: it is an RLock


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
        self._recorded: deque[Record] = deque()  # tasks of which the worker has recorded that
        self._waits: dict[tuple[int, int], int] = {}  # since when, by thread and lock
        self._holds: dict[int, list[_Hold]] = {}  # by thread; what was taken last comes last
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

    def update(self) -> None:
        """Take in what the worker has recorded."""
        self._take_in(self.reader.take())

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
            self._end_wait(Record(GAVE_UP, thread, lock, 0, now))
        for thread in list(self._holds):
            self._free(Record(FREED, thread, 0, 0, now))
        begin = now if begun is None else begun
        for task in tasks:
            # It may have recorded the end of its task, and not have sent all of the outcome.
            recorded = self._recorded.popleft() if self._recorded else Record(TASK, 0, 0, begin, now)
            self._add_task(recorded, task)
            begin = now
        self._recorded.clear()
        self._ended.clear()
        if how:
            self._file.mark(self.number, how, now, {"pid": self._pid})

    def _take_in(self, records: list[Record]) -> None:
        for record in records:
            _HANDLERS[record.kind](self, record)
        while self._ended and self._recorded:
            self._add_task(self._recorded.popleft(), self._ended.popleft())

    def _task(self, record: Record) -> None:
        self._recorded.append(record)

    def _add_task(self, record: Record, task: TaskEnd) -> None:
        name, items, ended = task
        if items is None:
            which = ""
        elif len(items) == 1:
            which = f'"item":{items[0]},'
        else:
            which = f'"items":"{items[0]} to {items[-1]}",'
        args = f'{{{which}"ended":{_json(ended)},"pid":{self._pid}}}'
        self._file.span(self.number, "task", _json(name), (record.begin, record.end), args)

    def _begin_wait(self, record: Record) -> None:
        self._waits[record.thread, record.lock] = record.begin
        self._file.waits(record.begin, self._file.lock_name(record.lock), 1)

    def _end_wait(self, record: Record) -> None:
        begin = self._waits.pop((record.thread, record.lock), None)
        if begin is None:
            return
        lock = self._file.lock_name(record.lock)
        self._file.waits(record.end, lock, -1)
        taken = "true" if record.kind == TAKEN else "false"
        args = f'{{"lock":{_json(lock)},"taken":{taken}}}'
        row = self._row(record.thread)
        self._file.span(row, "wait", _json(f"waits for {lock}"), (begin, record.end), args)

    def _taken(self, record: Record) -> None:
        self._end_wait(record)
        holds = self._holds.setdefault(record.thread, [])
        again = not self._file.is_semaphore(record.lock) and any(h.lock == record.lock for h in holds)
        holds.append(_Hold(record.lock, record.end, again))

    def _released(self, record: Record) -> None:
        # Another thread may release it than the one that took it.  Who else does is not known here.
        for thread in (record.thread, *self._holds):
            holds = self._holds.get(thread, [])
            for hold in reversed(holds):
                if hold.lock == record.lock:
                    self._end_hold(thread, holds, hold, record.end)
                    return

    def _free(self, record: Record) -> None:
        """End all holds of a thread, of one lock or, if the worker has ended, of all."""
        holds = self._holds.get(record.thread, [])
        for hold in holds[::-1]:
            if record.lock in {0, hold.lock}:
                self._end_hold(record.thread, holds, hold, record.end)

    def _end_hold(self, thread: int, holds: list[_Hold], hold: _Hold, end: int) -> None:
        is_last = hold is holds[-1]
        holds.remove(hold)
        if hold.again:
            return
        lock = self._file.lock_name(hold.lock)
        # The spans of a row have to lie within each other: one that does not has a row of its own.
        row = self._row(thread) if is_last else self._row(-hold.lock, lock)
        self._file.span(row, "hold", _json(f"holds {lock}"), (hold.begin, end), f'{{"lock":{_json(lock)}}}')

    def _row(self, key: int, what: str = "another thread") -> int:
        """Return the number of a row: of a thread of the worker, or of what else has one."""
        if key not in self._rows:
            self._rows[key] = number = _ROWS * self.number + len(self._rows)
            self._file.name_row(number, f"worker {self.number}, {what}")
        return self._rows[key]


_HANDLERS = {
    TASK: Row._task,
    WAITS: Row._begin_wait,
    TAKEN: Row._taken,
    GAVE_UP: Row._end_wait,
    RELEASED: Row._released,
    FREED: Row._free,
}
