"""The errors that only a cluster's pool has; each survives pickling with its fields."""

from __future__ import annotations

from typing import Any

from poollock._errors import WorkerDiedError
from poollock._typing import override

from ._member import Holder


class DaskWorkerDiedError(WorkerDiedError):
    """A worker process has ended while it ran a task, or before its large result was fetched; others go on.

    Attributes:
        pid: The worker process: as a number its pid, as a text where it was.
        host: The name of its host.
        worker: The address of the Dask worker in it.
        exitcode: Its exit code, -9 after SIGKILL; ``None`` if nobody knows it.
        task: What the message calls the task.
        locks_held: The names of the locks that the task held; they are free, and marked abandoned.
        items: Which items of ``map``, ``imap`` or ``starmap`` have no result because of that; ``None``
            for a single call.
        result_lost: Whether the task had ended, and its result was lost with the worker.
    """

    def __init__(  # noqa: PLR0917 - __reduce__ gives them by position
        self,
        pid: Holder,
        exitcode: int | None,
        task: str,
        locks_held: tuple[str, ...] = (),
        reason: str = "",
        items: range | None = None,
        result_lost: bool = False,  # noqa: FBT001, FBT002 - as above
    ) -> None:
        super().__init__(pid, exitcode, task, locks_held, reason, items)
        self.host: str = pid.host
        self.worker: str = pid.worker
        self.result_lost: bool = result_lost
        if result_lost:
            message = (
                f"the result of {task} was lost: it was too large to be sent at once, and worker process "
                f"{pid} ended before it was fetched. The task has run, and is not run again"
            )
            RuntimeError.__init__(self, message)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        function, fields = super().__reduce__()
        return function, (*fields, self.result_lost)
