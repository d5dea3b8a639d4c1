"""The file of a trace, in the JSON array format of Chrome, which Perfetto reads too: an event on each line.

It is written a few times a second.  A file whose program was killed lacks its last events and its
closing bracket, and opens all the same.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import stat
import weakref
from collections import Counter
from collections.abc import Mapping
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any

from poollock._locks.registry import every_lock

from .records import lock_key

if TYPE_CHECKING:
    from .row import Row

_INTERVAL = 0.05  # seconds between two times to write
_SHORT_INTERVAL = 0.005  # seconds; while so much is recorded that there might be no room for it
_FORMAT = 1  # of the file, for who reads it
_OTHERS = "locks made in workers"  # what all of them are called together
_MOST_OTHERS = 10_000  # of which this is known

_open_files: weakref.WeakSet[TraceFile] = weakref.WeakSet()  # of this process


class TraceFile:
    """Writes events; only one thread may use it at a time.

    Args:
        path: The file; what it has is overwritten.
        name: What the program is called.

    Attributes:
        path: The file.
        rows: Of each worker, its row.

    Raises:
        OSError: The file cannot be opened, or is none that can be overwritten.
        ValueError: Another pool of this process writes it.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._pid = os.getpid()
        self._begin = perf_counter_ns()
        self._next_write = 0.0
        self._lines: list[str] = []
        self._locks: dict[int, str] = {}  # what they are called, by their keys
        self._others: set[int] = set()  # locks that are not known in this process
        self._recursive: set[int] = set()  # the RLocks
        self._semaphores: set[int] = set()
        self._changes: list[tuple[int, str, int]] = []  # when more, or fewer, tasks waited for which lock
        self._waiters: Counter[str] = Counter()
        self._in_backlog = 0
        self._fd = _open(path)
        self._is_new = True  # nothing has been written yet
        _open_files.add(self)
        self._lines.append("[\n")
        self._metadata("process_name", 0, {"name": name, "poollock": _FORMAT})

    # Events: times are in nanoseconds of perf_counter_ns.

    def name_row(self, row: int, name: str) -> None:
        """Say what the row with the number *row* is called."""
        self._metadata("thread_name", row, {"name": name})
        self._metadata("thread_sort_index", row, {"sort_index": row})

    def _metadata(self, name: str, row: int, args: Mapping[str, object]) -> None:
        event = {"name": name, "ph": "M", "pid": self._pid, "tid": row, "args": args}
        self._lines.append(f"{json.dumps(event)},\n")

    def span(self, row: int, category: str, name: str, times: tuple[int, int], args: str) -> None:
        """Add something that lasted; *name* and *args* are JSON."""
        begin, end = times
        # An f-string takes a third of the time of json.dumps().
        self._lines.append(
            f'{{"name":{name},"cat":"{category}","ph":"X","pid":{self._pid},"tid":{row},'
            f'"ts":{(begin - self._begin) / 1000:.3f},"dur":{(end - begin) / 1000:.3f},"args":{args}}},\n'
        )

    def mark(self, row: int, name: str, when: int, args: Mapping[str, object]) -> None:
        """Add something that happened at one instant."""
        event = {"name": name, "cat": "mark", "ph": "i", "s": "t", "pid": self._pid, "tid": row}
        self._lines.append(f"{json.dumps({**event, 'ts': self._micros(when), 'args': args})},\n")

    def backlog(self, count: int) -> None:
        """Say how many tasks are in the backlog now."""
        if count != self._in_backlog:
            self._in_backlog = count
            self._counter("backlog:", perf_counter_ns(), "tasks", count)

    def waits(self, when: int, lock: str, change: int) -> None:
        """Say that one more task waits for *lock*, or one fewer."""
        heapq.heappush(self._changes, (when, lock, change))

    def _counter(self, name: str, when: int, unit: str, count: int) -> None:
        event = {"name": name, "ph": "C", "pid": self._pid, "tid": 0, "ts": self._micros(when)}
        self._lines.append(f"{json.dumps({**event, 'args': {unit: count}})},\n")

    def _micros(self, when: int) -> float:
        return (when - self._begin) / 1000

    # Locks.

    def lock_name(self, key: int) -> str:
        """Return what the lock with this key is called."""
        if key not in self._locks and key not in self._others:
            self._name_lock(key)
        return self._locks.get(key, _OTHERS)

    def is_recursive(self, key: int) -> bool:
        """Return whether the lock with this key is an RLock."""
        self.lock_name(key)
        return key in self._recursive

    def can_be_held_again(self, key: int) -> bool:
        """Return whether who has the lock with this key may take it again."""
        return self.is_recursive(key) or key in self._semaphores

    def _name_lock(self, key: int) -> None:
        for lock in every_lock():
            if lock_key(lock) == key:
                name = lock.name or f"{type(lock).__name__} {len(self._locks) + 1}"
                # Two locks may have one name: a pool's, and one of another pool.
                is_new = name not in self._locks.values()
                self._locks[key] = name if is_new else f"{name} ({len(self._locks) + 1})"
                if lock._is_recursive:
                    self._recursive.add(key)
                if hasattr(lock, "get_value"):
                    self._semaphores.add(key)
                return
        if len(self._others) >= _MOST_OTHERS:
            self._others.clear()
        self._others.add(key)

    # Writing.

    def is_due(self) -> bool:
        """Return whether it is time for ``write``."""
        return perf_counter() >= self._next_write

    def seconds_to_next_write(self) -> float:
        """Return in how many seconds ``write`` should be called."""
        return max(0.0, self._next_write - perf_counter())

    def write(self, known_until: int, *, is_much: bool = False) -> None:
        """Write the events that there are.

        Args:
            known_until: All that has begun before is known; later there may be waits that are not.
            is_much: Whether much is recorded just now, so that the next time is to come soon.

        Raises:
            OSError: The file takes no more; nothing else will be written.
        """
        self._next_write = perf_counter() + (_SHORT_INTERVAL if is_much else _INTERVAL)
        while self._changes and self._changes[0][0] < known_until:
            when, lock, change = heapq.heappop(self._changes)
            self._waiters[lock] += change
            self._counter(f"{lock}:", when, "waiters", self._waiters[lock])
        data = memoryview("".join(self._lines).encode())
        self._lines.clear()
        try:
            if self._is_new and self._fd >= 0:  # not before: a pool that does not start loses nothing
                self._is_new = False
                os.ftruncate(self._fd, 0)
            while data and self._fd >= 0:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self.close_file()
            raise

    def close(self) -> None:
        """Write what is left, and the end.

        Raises:
            OSError: The file takes no more.
        """
        now = perf_counter_ns()
        self.write(now)
        event: dict[str, Any] = {"name": "end", "cat": "mark", "ph": "i", "s": "p", "pid": self._pid}
        self._lines.append(f"{json.dumps({**event, 'tid': 0, 'ts': self._micros(now)})}\n]\n")
        self.write(0)
        self.close_file()

    def close_file(self) -> None:
        """Close the file: at the end, and in every child that is forked."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        _open_files.discard(self)
        self.rows.clear()  # they lead here

    def is_file(self, status: os.stat_result) -> bool:
        """Return whether this writes the file with that status."""
        return self._fd >= 0 and os.path.samestat(os.fstat(self._fd), status)


def _open(path: str) -> int:
    """Open a file and return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags, 0o666)
    try:
        _check(path, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):  # a pipe that nobody reads would stop the pool
        raise OSError(errno.EINVAL, "a trace must be a file, not a pipe or a device", path)
    if any(other.is_file(status) for other in list(_open_files)):
        raise ValueError(f"another pool of this program writes its trace to {path!r}")
