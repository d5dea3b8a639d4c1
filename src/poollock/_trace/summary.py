"""What a trace says, in a few lines: which lock the workers waited for, and what each of them did."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

_WORTH_SAYING = 0.05  # of the workers' time
_MUCH_IDLE = 0.25  # of the workers' time
_MOST_MARKS = 20  # that are shown
_MICROS = 1e6  # in a second
_ROUNDING = 1e-8  # seconds
_USUAL = re.compile(r"worker \d+ (starts|replaces \d+)")  # marks that are in the picture alone


class NotATraceError(ValueError):
    """The file is not one that a pool has written."""


@dataclass
class Longest:
    """The longest wait for a lock, or hold of one.

    Attributes:
        seconds: How long it was.
        task: The task that it belongs to; empty if it belongs to none.
    """

    seconds: float = 0.0
    task: str = ""


@dataclass
class LockUse:
    """What was done with one lock; times in seconds.

    Attributes:
        taken: How often it was taken.
        waits: How often a task had to wait for it.
        waited: How long all waits were together.
        kept_waiting: The same without other threads of a task, which goes on meanwhile.
        held: How long all holds were together.
        longest_wait: The longest of the waits.
        longest_hold: The longest of the holds.
    """

    taken: int = 0
    waits: int = 0
    waited: float = 0.0
    kept_waiting: float = 0.0
    held: float = 0.0
    longest_wait: Longest = field(default_factory=Longest)
    longest_hold: Longest = field(default_factory=Longest)


@dataclass
class TaskUse:
    """What the tasks of one function did; times in seconds.

    Attributes:
        ended: How many have ended.
        failed: How many of these not by returning.
        seconds: How long they took together, waits included.
        longest: The longest of them.
    """

    ended: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest: Longest = field(default_factory=Longest)


@dataclass
class WorkerUse:
    """What one worker did, and those that replaced it; times in seconds.

    Attributes:
        tasks: How many tasks ended in it.
        failed: How many of these not by returning.
        busy: How long its tasks did something else than to wait for locks.
        waiting: How long it waited for locks.
    """

    tasks: int = 0
    failed: int = 0
    busy: float = 0.0
    waiting: float = 0.0


class Summary:
    """Takes in the events of a trace, and knows what they come to.

    Attributes:
        program: What the program is called.
        locks: What was done with each lock, by its name.
        functions: What the tasks of each function did, by its name.
        workers: What each worker did, by its name.
        marks: What happened beside: deaths, timeouts, deadlocks.
        is_complete: Whether the program has written the trace to its end.
    """

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        self.program = ""
        self.locks: dict[str, LockUse] = {}
        self.functions: dict[str, TaskUse] = {}
        self.workers: dict[str, WorkerUse] = {}
        self.marks: list[str] = []
        self.is_complete = False
        self._rows: dict[int, str] = {}
        self._first, self._last = float("inf"), 0.0
        # By worker, what may lie in a task that is not known yet, which comes after it: waits of the main
        # thread, and the longest waits and holds of a lock.
        self._waits: dict[str, list[tuple[float, float]]] = {}
        self._longest: dict[str, list[tuple[float, Longest]]] = {}
        for event in events:
            self._take_in(event)

    @property
    def seconds(self) -> float:
        """How long it took from the first thing that a worker did to the last one."""
        return max(0.0, self._last - self._first)

    @property
    def worker_seconds(self) -> float:
        """How much time the workers had together."""
        return self.seconds * len(self.workers)

    def idle(self, worker: WorkerUse) -> float:
        """Return how long *worker* had nothing to do, in seconds."""
        return max(0.0, self.seconds - worker.busy - worker.waiting)

    def share(self, lock: LockUse) -> float:
        """Return which part of the workers' time was a wait for *lock*."""
        return lock.kept_waiting / self.worker_seconds if self.worker_seconds else 0.0

    def _take_in(self, event: dict[str, Any]) -> None:
        phase, name, args = event["ph"], event["name"], event.get("args", {})
        if phase == "M" and name == "process_name":
            self.program = args["name"]
        elif phase == "M" and name == "thread_name":
            self._rows[event["tid"]] = args["name"]
            if "," not in args["name"]:  # else it is a row beside that of the worker
                self.workers.setdefault(args["name"], WorkerUse())
        elif phase == "i" and name == "end":
            self.is_complete = True
        elif phase == "i" and not _USUAL.fullmatch(name):
            self.marks.append(name)
        elif phase == "X":
            self._take_in_span(event, args)

    def _take_in_span(self, event: dict[str, Any], args: dict[str, Any]) -> None:
        begin, seconds = event["ts"] / _MICROS, event["dur"] / _MICROS
        self._first, self._last = min(self._first, begin), max(self._last, begin + seconds)
        worker, _, is_beside = self._rows[event["tid"]].partition(",")
        if event["cat"] == "task":
            self._take_in_task(worker, begin, seconds, event["name"], args)
            return
        lock = self.locks.setdefault(args["lock"], LockUse())
        if event["cat"] == "wait":
            lock.waits += 1
            lock.waited += seconds
            if not is_beside:  # else another thread of the task waits, and the task goes on
                lock.kept_waiting += seconds
                self.workers[worker].waiting += seconds
                self._waits.setdefault(worker, []).append((begin, seconds))
            lock.longest_wait = self._longer(lock.longest_wait, worker, begin, seconds)
        else:
            lock.taken += 1
            lock.held += seconds
            lock.longest_hold = self._longer(lock.longest_hold, worker, begin, seconds)

    def _longer(self, longest: Longest, worker: str, begin: float, seconds: float) -> Longest:
        if seconds <= longest.seconds:
            return longest
        new = Longest(seconds)
        self._longest.setdefault(worker, []).append((begin, new))
        return new

    def _take_in_task(
        self, worker: str, begin: float, seconds: float, name: str, args: dict[str, Any]
    ) -> None:
        end = begin + seconds + _ROUNDING
        failed = args["ended"] != "ok"
        use = self.workers[worker]
        use.tasks += 1
        use.failed += failed
        waits = self._waits.pop(worker, [])
        use.busy += seconds - sum(waited for at, waited in waits if begin <= at < end)
        self._waits[worker] = [wait for wait in waits if wait[0] >= end]
        function = self.functions.setdefault(name, TaskUse())
        function.ended += 1
        function.failed += failed
        function.seconds += seconds
        task = _task_name(name, args)
        if seconds > function.longest.seconds:
            function.longest = Longest(seconds, task)
        for at, longest in self._longest.get(worker, ()):
            if begin <= at < end:
                longest.task = task
        self._longest[worker] = [each for each in self._longest.get(worker, ()) if each[0] >= end]

    def bottleneck(self) -> str:
        """Return a sentence that says what kept the workers from their tasks, if anything did."""
        if not self.worker_seconds:
            return "No task has ended."
        uses = self.locks.items()
        name, lock = max(uses, key=lambda each: each[1].kept_waiting, default=("", LockUse()))
        waited = self.share(lock)
        idle = sum(map(self.idle, self.workers.values())) / self.worker_seconds
        if waited >= _WORTH_SAYING and waited >= idle:
            text = f"The bottleneck is {name!r}: {waited:.0%} of the workers' time was waiting for it"
            if lock.held > self.seconds:  # a Semaphore
                return f"{text}."
            return f"{text}; it was held for {_duration(lock.held)} of the {_duration(self.seconds)}."
        if idle >= _MUCH_IDLE:
            return (
                f"No lock is the bottleneck: for {idle:.0%} of their time the workers had no task. There "
                "were too few, they came too slowly, workers were being started, or the tasks were so small "
                "that sending them took longer than they did (see chunksize)."
            )
        return f"No lock is a bottleneck: {waited:.0%} of the workers' time was waiting for the busiest one."

    def lines(self, width: int) -> list[str]:
        """Return the summary as lines of *width* characters at most, as far as names allow."""
        ended = "" if self.is_complete else "; the program has not written the end"
        tasks = sum(worker.tasks for worker in self.workers.values())
        text = [
            f"{self.program}, {tasks} tasks in {_duration(self.seconds)}{ended}",
            "",
            *self._lock_lines(width),
            "",
            *self._function_lines(width),
            "",
            *self._worker_lines(),
        ]
        if self.marks:
            more = len(self.marks) - _MOST_MARKS
            text += ["", *[_cut(mark, width) for mark in self.marks[:_MOST_MARKS]]]
            text += [f"and {more} more like these"] if more > 0 else []
        return [*text, "", *wrap(self.bottleneck(), max(20, width))]

    def _lock_lines(self, width: int) -> list[str]:
        if not self.locks:
            return ["No lock was taken."]
        rows = [["lock", "taken", "waits", "waited", "of all time", "held"]]
        uses = sorted(self.locks.items(), key=lambda each: -each[1].waited)
        for name, use in uses:
            times = [_duration(use.waited), f"{self.share(use):.0%}", _duration(use.held)]
            rows.append([name, str(use.taken), str(use.waits), *times])
        lines = _table(rows)
        for name, use in uses:
            for what, longest in (("wait for", use.longest_wait), ("hold of", use.longest_hold)):
                if longest.task:
                    text = f"  longest {what} {name}: {_duration(longest.seconds)}, {longest.task}"
                    lines.append(_cut(text, width))
        return lines

    def _function_lines(self, width: int) -> list[str]:
        rows = [["function", "tasks", "failed", "in all", "longest"]]
        for name, use in sorted(self.functions.items(), key=lambda each: -each[1].seconds):
            times = [_duration(use.seconds), _duration(use.longest.seconds)]
            rows.append([_cut(name, width // 2), str(use.ended), str(use.failed), *times])
        return _table(rows)

    def _worker_lines(self) -> list[str]:
        rows = [["worker", "tasks", "failed", "busy", "waiting", "idle"]]
        for name, use in sorted(self.workers.items(), key=lambda each: int(each[0].split()[1])):
            times = (use.busy, use.waiting, self.idle(use))
            shares = [f"{time / self.seconds:.0%}" if self.seconds else "-" for time in times]
            rows.append([name.split()[1], str(use.tasks), str(use.failed), *shares])
        return _table(rows)


def read_events(path: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a trace, of one that is still being written, too.

    Raises:
        NotATraceError: It is another file.
        OSError: It cannot be read.
    """
    wrong = f"{path!r} is not a trace that a pool has written"
    with open(path, encoding="utf-8", errors="replace") as file:
        if file.readline().rstrip() != "[":
            raise NotATraceError(wrong)
        for number, line in enumerate(file):
            text = line.rstrip().rstrip(",")
            if text in {"", "]"}:
                continue
            try:
                event: dict[str, Any] = json.loads(text)
            except (ValueError, RecursionError):
                if not line.endswith("\n"):  # the program was killed while it wrote this
                    return
                raise NotATraceError(wrong) from None
            if not number and '"poollock"' not in text:
                raise NotATraceError(wrong)
            yield event


def summarize(path: str, width: int) -> str:
    """Return the summary of a trace, as text that is so wide.

    Raises:
        NotATraceError: It is another file, or one that somebody has changed.
        OSError: It cannot be read.
    """
    try:
        return "\n".join([*Summary(read_events(path)).lines(width), ""])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise NotATraceError(f"{path!r} is not a trace that a pool has written: {error!r}") from error


def _task_name(name: str, args: dict[str, Any]) -> str:
    if "item" in args:
        return f"{name}, item {args['item']}"
    return f"{name}, items {args['items']}" if "items" in args else name


def _duration(seconds: float) -> str:
    """Return *seconds* in a unit that suits them."""
    if seconds >= 100:  # noqa: PLR2004 - from there on no part of a second is of interest
        return f"{seconds:.0f} s"
    for unit, name in ((1, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * _MICROS:.0f} us" if seconds else "-"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."
