"""Which processes take part: what they tell the scheduler of themselves, and how a user sees them."""

from __future__ import annotations

from typing import Any, NamedTuple

from poollock._typing import Self

# Of the messages between a process and the scheduler. A plugin stays there for as long as the scheduler runs,
# so one of another version may answer.
PROTOCOL = 1


class Member(NamedTuple):
    """A process that is connected to the scheduler.

    Attributes:
        session: Its connection's own name.
        pid: Its pid.
        host: The name of its host.
        worker: The address of the Dask worker in it; empty in a client.
        nanny: The address of the nanny that started it; empty if there is none.
    """

    session: str
    pid: int
    host: str
    worker: str
    nanny: str


class Holder(int):
    """A process of the cluster: its pid, which as a number it is, and where that is.

    Attributes:
        host: The name of its host.
        worker: The address of the Dask worker in it; empty for a client.
        task: What a message calls the task that it is about; empty if it is about none.
    """

    host: str
    worker: str
    task: str

    def __new__(cls, pid: int, host: str, worker: str = "", task: str = "") -> Self:
        """Return the process *pid* of *host*."""
        self = super().__new__(cls, pid)
        self.host = host
        self.worker = worker
        self.task = task
        return self

    @property
    def pid(self) -> int:
        """The pid alone."""
        return int(self)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return int(self), self.host, self.worker, self.task

    def __str__(self) -> str:
        where = f"{int(self)} on {self.host}"
        details = ", ".join(filter(None, [self.worker or "a client", self.task]))
        return f"{where} ({details})"

    def __repr__(self) -> str:
        return f"<{self}>"
