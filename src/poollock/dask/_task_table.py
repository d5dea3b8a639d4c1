"""Which task has begun, and where: what makes sure that none begins twice.  No I/O."""

from __future__ import annotations

from ._lock_table import Peer


class JobState:
    """One call of a pool's method.

    Args:
        owner: The client that waits for the results.
        function: The function of its tasks, as bytes.

    Attributes:
        begun: The tasks that have begun, each with the process that runs it; ``None`` once it has ended, or
            may not begin any more.
    """

    def __init__(self, owner: Peer, function: bytes) -> None:
        self.owner = owner
        self.function = function
        self.begun: dict[int, Peer | None] = {}


class TaskTable:
    """The jobs of all pools of a cluster."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobState] = {}

    def add(self, name: str, owner: Peer, function: bytes) -> None:
        """Take in a job of the client *owner*."""
        self.jobs[name] = JobState(owner, function)
        owner.jobs.add(number_of(name))

    def is_expected(self, name: str, owner: Peer) -> bool:
        """Return whether *owner* will still tell of the job called *name*."""
        return not owner.is_gone and number_of(name) not in owner.jobs

    def begin(self, peer: Peer, job: str, index: int, task: str) -> bool:
        """Have *peer* begin a task; return False if it must not: it has begun, or nobody wants it.

        Args:
            peer: The process.
            job: The job's name.
            index: Which of its tasks.
            task: What a message calls it.
        """
        state = self.jobs.get(job)
        if state is None or index in state.begun:
            return False
        state.begun[index] = peer
        peer.tasks[job, index] = task
        return True

    def withdraw(self, job: str, index: int) -> bool:
        """See to it that a task does not begin; return False if it has."""
        state = self.jobs.get(job)
        if state is None:
            return True
        if index in state.begun:
            return False
        state.begun[index] = None
        return True

    def end(self, peer: Peer, job: str, index: int) -> Peer | None:
        """Have *peer* end a task; return who waits for its outcome, if somebody does."""
        peer.tasks.pop((job, index), None)
        state = self.jobs.get(job)
        if state is None or state.begun.get(index) is not peer:
            return None
        state.begun[index] = None
        return state.owner

    def forget(self, job: str, index: int) -> None:
        """Take in that Dask knows a task no more: nobody will be asked to run it."""
        state = self.jobs.get(job)
        if state is not None and index in state.begun and state.begun[index] is None:
            del state.begun[index]

    def leave(self, owner: Peer) -> None:
        """Forget the jobs of a client that has ended."""
        for name in [name for name, state in self.jobs.items() if state.owner is owner]:
            del self.jobs[name]


def job_name(function: str, session: str, number: int) -> str:
    """Return the name of a job; Dask shows what stands before the first hyphen that a number follows.

    Args:
        function: What a message calls its function.
        session: The session of its owner.
        number: Which of the owner's jobs, from 1 on.
    """
    return f"{function}-{session}-{number}"


def number_of(name: str) -> int:
    """Return which of its owner's jobs the one called *name* is."""
    return int(name.rpartition("-")[2])


def task_owner(job: str, index: int) -> str:
    """Return what a task is called as the owner of a lock."""
    return f"{job}/{index}"
