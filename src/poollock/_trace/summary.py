"""What a trace says, in a few lines: which lock the workers waited for, and what each of them did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_WORTH_SAYING = 0.05  # of the workers' time
_MUCH_IDLE = 0.25  # of the workers' time
_MICROS = 1e6  # in a second
_ROUNDING = 1e-8  # seconds


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
        held: How long all holds were together.
        longest_wait: The longest of the waits.
        longest_hold: The longest of the holds.
    """

    taken: int = 0
    waits: int = 0
    waited: float = 0.0
    held: float = 0.0
    longest_wait: Longest = field(default_factory=Longest)
    longest_hold: Longest = field(default_factory=Longest)


@dataclass
class WorkerUse:
    """What one worker did, and those that replaced it; times in seconds.

    Attributes:
        tasks: How many tasks ended in it.
        failed: How many of these not by returning.
        running: How long it had a task.
        waiting: How long its tasks waited for locks.
    """

    tasks: int = 0
    failed: int = 0
    running: float = 0.0
    waiting: float = 0.0

    @property
    def busy(self) -> float:
        """How long its tasks did something else than to wait for locks."""
        return max(0.0, self.running - self.waiting)


class Summary:
    """Takes in the events of a trace, and knows what they come to.

    Attributes:
        program: What the program is called.
        locks: What was done with each lock, by its name.
        workers: What each worker did, by its name.
        marks: What happened beside: deaths, timeouts, deadlocks.
        is_complete: Whether the program has written the trace to its end.
    """

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        self.program = ""
        self.locks: dict[str, LockUse] = {}
        self.workers: dict[str, WorkerUse] = {}
        self.marks: list[str] = []
        self.is_complete = False
        self._rows: dict[int, str] = {}
        self._first, self._last = float("inf"), 0.0
        # By worker, the waits and holds whose task is not known yet: a task comes after what happened in it.
        self._unassigned: dict[str, list[tuple[float, float, Longest]]] = {}
        for event in events:
            self._take_in(event)

    @property
    def seconds(self) -> float:
        """How long it took from the begin of the first task to the end of the last one."""
        return max(0.0, self._last - self._first)

    @property
    def worker_seconds(self) -> float:
        """How much time the workers had together."""
        return self.seconds * len(self.workers)

    def idle(self, worker: WorkerUse) -> float:
        """Return how long *worker* had nothing to do, in seconds."""
        return max(0.0, self.seconds - worker.running)

    def share_waited(self, lock: LockUse) -> float:
        """Return which part of the workers' time was a wait for *lock*."""
        return lock.waited / self.worker_seconds if self.worker_seconds else 0.0

    def _take_in(self, event: dict[str, Any]) -> None:
        phase, name, args = event.get("ph"), event["name"], event.get("args", {})
        if phase == "M" and name == "process_name":
            self.program = args["name"]
        elif phase == "M" and name == "thread_name":
            self._rows[event["tid"]] = args["name"]
            if "," not in args["name"]:  # else it is a row beside that of the worker
                self.workers.setdefault(args["name"], WorkerUse())
        elif phase == "i" and name == "end":
            self.is_complete = True
        elif phase == "i" and not name.endswith(" starts"):
            self.marks.append(name)
        elif phase == "X":
            self._take_in_span(event, args)

    def _take_in_span(self, event: dict[str, Any], args: dict[str, Any]) -> None:
        begin, seconds = event["ts"] / _MICROS, event["dur"] / _MICROS
        row = self._rows[event["tid"]]
        worker, _, is_beside = row.partition(",")
        use = self.workers[worker]
        if event["cat"] == "task":
            use.tasks += 1
            use.failed += args["ended"] != "ok"
            use.running += seconds
            self._first, self._last = min(self._first, begin), max(self._last, begin + seconds)
            self._assign(worker, begin, begin + seconds, _task_name(event["name"], args))
            return
        lock = self.locks.setdefault(args["lock"], LockUse())
        if event["cat"] == "wait":
            lock.waits += 1
            lock.waited += seconds
            if not is_beside:  # else another thread of the task waits, and the task goes on
                use.waiting += seconds
            lock.longest_wait = self._longer(lock.longest_wait, worker, begin, seconds)
        else:
            lock.taken += 1
            lock.held += seconds
            lock.longest_hold = self._longer(lock.longest_hold, worker, begin, seconds)

    def _longer(self, longest: Longest, worker: str, begin: float, seconds: float) -> Longest:
        if seconds <= longest.seconds:
            return longest
        new = Longest(seconds)
        self._unassigned.setdefault(worker, []).append((begin, begin + seconds, new))
        return new

    def _assign(self, worker: str, begin: float, end: float, task: str) -> None:
        for _, last, each in self._unassigned.pop(worker, ()):
            if begin <= last <= end + _ROUNDING:
                each.task = task

    def bottleneck(self) -> str:
        """Return a sentence that says what kept the workers from their tasks, if anything did."""
        if not self.worker_seconds:
            return "No task has ended."
        name, lock = max(self.locks.items(), key=lambda each: each[1].waited, default=("", LockUse()))
        waited = self.share_waited(lock)
        idle = sum(map(self.idle, self.workers.values())) / self.worker_seconds
        if waited >= _WORTH_SAYING and waited >= idle:
            return (
                f"The bottleneck is {name!r}: {waited:.0%} of the workers' time was waiting for it; "
                f"it was held for {_duration(lock.held)} of the {_duration(self.seconds)}."
            )
        if idle >= _MUCH_IDLE:
            return (
                f"No lock is the bottleneck: for {idle:.0%} of their time the workers had no task. There "
                "were too few, they came too slowly, or they were so small that sending them took longer "
                "than they did (see chunksize)."
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
            *self._worker_lines(),
        ]
        if self.marks:
            text += ["", *[_cut(mark, width) for mark in self.marks]]
        return [*text, "", *_wrap(self.bottleneck(), width)]

    def _lock_lines(self, width: int) -> list[str]:
        if not self.locks:
            return ["No lock was taken."]
        rows = [["lock", "taken", "waits", "waited", "share", "longest wait", "held", "longest hold"]]
        uses = sorted(self.locks.items(), key=lambda each: -each[1].waited)
        rows += [
            [
                name,
                str(use.taken),
                str(use.waits),
                _duration(use.waited),
                f"{self.share_waited(use):.0%}",
                _duration(use.longest_wait.seconds),
                _duration(use.held),
                _duration(use.longest_hold.seconds),
            ]
            for name, use in uses
        ]
        lines = _table(rows)
        for name, use in uses:
            for what, longest in (("wait for", use.longest_wait), ("hold of", use.longest_hold)):
                if longest.task:
                    lines.append(_cut(f"  longest {what} {name}: {longest.task}", width))
        return lines

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
            except ValueError:
                if not line.endswith("\n"):  # the program was killed while it wrote this
                    return
                raise NotATraceError(wrong) from None
            if not number and '"poollock"' not in text:
                raise NotATraceError(wrong)
            yield event


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
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)],
            ]
        )
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."


def _wrap(text: str, width: int) -> list[str]:
    from textwrap import wrap  # noqa: PLC0415 - for one sentence

    return wrap(text, max(20, width))
