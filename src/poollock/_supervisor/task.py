"""A task on its way to a worker."""

from __future__ import annotations

from typing import Any

from poollock._worker.task_pickling import task_function


class Task:
    """A task on its way: which part of which job it is, and the task itself as bytes."""

    __slots__ = ("func", "index", "items", "job", "number", "payload", "turn")

    def __init__(self, job: int, index: int, func: Any, args: tuple[Any, ...]) -> None:
        self.job = job
        self.index = index
        self.func = task_function(func, args)
        self.items = 0 if self.func is func else len(args[0][1])  # of a chunk
        self.payload = b""
        self.turn = 0  # among all tasks
        self.number = 0  # among those that its worker was sent
