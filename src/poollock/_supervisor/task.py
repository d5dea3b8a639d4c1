"""A task: the part of a job that one worker runs in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .jobs import Job


class Task:
    """A call, or a chunk of calls, on its way to a worker and back.

    Args:
        job: The job that the task is a part of.
        index: Which part.
        items: Which items of the job's iterable the task has; None if the job is a single call.

    Attributes:
        payload: The task as bytes, until a worker has it for sure.
        sequence: Its place among all the tasks of the pool.
        number: Its place among the tasks that its worker was sent.
    """

    __slots__ = ("index", "items", "job", "number", "payload", "sequence")

    def __init__(self, job: Job, index: int, items: range | None) -> None:
        self.job = job
        self.index = index
        self.items = items
        self.payload = b""
        self.sequence = 0
        self.number = 0

    def describe(self) -> str:
        """Return what a message calls the task: ``send_request, item 7``."""
        name = self.job.function_name
        if not self.items:
            return name
        if len(self.items) == 1:
            return f"{name}, item {self.items[0]}"
        return f"{name}, items {self.items[0]} to {self.items[-1]}"
