"""A task: the part of a job that one worker runs in one go."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from .callbacks import report_exception

if TYPE_CHECKING:
    from .jobs import Job


class Task:
    """A call, or a chunk of calls, on its way to a worker and back.

    Args:
        job: The job that the task is a part of.
        index: Which part.
        size: How many items of the job's iterable the task has; 0 if the job is a single call.

    Attributes:
        payload: The task as bytes, until a worker has it for sure.
        sequence: Its place among all the tasks of the pool.
        number: Its place among the tasks that its worker was sent.
    """

    __slots__ = ("index", "job", "number", "payload", "sequence", "size")

    def __init__(self, job: Job, index: int, size: int) -> None:
        self.job = job
        self.index = index
        self.size = size
        self.payload = b""
        self.sequence = 0
        self.number = 0

    @property
    def items(self) -> range | None:
        """Which items of the job's iterable the task has; None if the job is a single call."""
        first = self.index * self.job.chunksize
        return range(first, first + self.size) if self.size else None

    def describe(self) -> str:
        """Return what a message calls the task: ``send_request, item 7``."""
        name, items = self.job.function_name, self.items
        if items is None:
            return name
        if len(items) == 1:
            return f"{name}, item {items[0]}"
        return f"{name}, items {items[0]} to {items[-1]}"

    def warn_of_locks_left(self, names: list[str]) -> None:
        """Warn that the task ended while it held locks, of these names."""
        shown = ", ".join(map(repr, names))
        message = f"{self.describe()} ended while it held {shown}, which has been released"
        try:
            warnings.warn(message, RuntimeWarning, 3)
        except BaseException:  # noqa: BLE001 - warnings may be errors here
            report_exception()
