"""The errors of poollock; each survives pickling with its fields."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._backend.describe import describe_exit


class PoolLockError(Exception):
    """The base of every error of poollock."""


class LockNotInstalledError(PoolLockError, RuntimeError):
    """A lock is used in a process that it never reached."""


class LockTimeoutError(PoolLockError, TimeoutError):
    """A lock was not free in time.

    Attributes:
        lock: What the message calls the lock: ``lock 'log'``.
        holders: The pids of the processes that held it when the wait ended.
        timeout: The seconds waited.
    """

    def __init__(self, lock: str, holders: tuple[int, ...], timeout: float, waiter: str) -> None:
        held = f"held by process {', '.join(map(str, holders))}" if holders else "free again by now"
        super().__init__(f"{waiter} waited {timeout:g} s for {lock}, which is {held}")
        self.lock = lock
        self.holders = holders
        self.timeout = timeout
        self._waiter = waiter

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.lock, self.holders, self.timeout, self._waiter)


class LockWait(NamedTuple):
    """A task that waits for a lock.

    Attributes:
        task: What a message calls the task: ``send_request, item 7``.
        pid: The process that runs it.
        lock: What a message calls the lock: ``lock 'log'``.
        holders: The pids of the processes that hold the lock.
        seconds: How long it has waited.
    """

    task: str
    pid: int
    lock: str
    holders: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        held = f"held by process {', '.join(map(str, self.holders))}" if self.holders else "held by nobody"
        return f"{self.task} (process {self.pid}) has waited {self.seconds:.1f} s for {self.lock}, {held}"


class DeadlockError(PoolLockError, RuntimeError):
    """A task waits for a lock that can never be free, because its holders wait, too.

    Attributes:
        waits: The waits of the ring, that of the task which gets the error first.
        pool_pid: The pid of the pool's process, if it holds one of the locks and waits for one of the
            tasks; else 0.
    """

    def __init__(self, waits: tuple[LockWait, ...], pool_pid: int = 0) -> None:
        message = "this wait would never end: " + "; ".join(map(str, waits))
        if pool_pid:
            message += (
                f"; and the process of the pool, {pool_pid}, holds a lock and waits for the result: "
                "release the lock before you wait for a task that needs it"
            )
        elif len(waits) == 1 and waits[0].holders == (waits[0].pid,):
            message += ". The task holds it already: release it first, or use an RLock"
        else:
            message += ". Have all tasks take the locks in the same order"
        super().__init__(message)
        self.waits = waits
        self.pool_pid = pool_pid

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.waits, self.pool_pid)


class ManagerDiedError(PoolLockError, ConnectionError):
    """The manager process that a lock lives in has ended."""


class WorkerDiedError(PoolLockError, RuntimeError):
    """A worker has ended while it ran a task; the other tasks go on.

    Attributes:
        pid: The worker's pid.
        exitcode: Its exit code as ``Process.exitcode`` has it, -9 after SIGKILL; ``None`` if
            something else in the pool's process asked the system for it first.
        task: What the message calls the task.
        locks_held: The names of the locks that it held; they are free, and marked abandoned.
        items: Which items of ``map``, ``imap`` or ``starmap`` have no result because of that; ``None``
            for a single call.
    """

    def __init__(  # noqa: PLR0917 - __reduce__ gives them by position
        self,
        pid: int,
        exitcode: int | None,
        task: str,
        locks_held: tuple[str, ...] = (),
        reason: str = "",
        items: range | None = None,
    ) -> None:
        message = f"worker process {pid} {describe_exit(exitcode)} while it ran {task}"
        if reason:
            message += f", because {reason}"
        if locks_held:
            message += f"; it held {', '.join(map(repr, locks_held))}, now free again and marked as abandoned"
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.locks_held = locks_held
        self.items = items
        self._reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self.pid, self.exitcode, self.task, self.locks_held, self._reason, self.items
        return type(self), fields


class TaskTimeoutError(PoolLockError, TimeoutError):
    """A task took longer than the pool's ``task_timeout``, and was ended with its worker.

    Attributes:
        timeout: The limit, in seconds.
        task: What the message calls the task.
        items: Which items of ``map``, ``imap`` or ``starmap`` have no result because of that; ``None``
            for a single call.
        pid: The worker's pid.
        locks_held: The names of the locks that it held; they are free as soon as it has ended, and
            marked abandoned.
    """

    def __init__(
        self, timeout: float, task: str, items: range | None, pid: int, locks_held: tuple[str, ...] = ()
    ) -> None:
        message = f"{task} took longer than {timeout:g} s, and was ended with its worker process {pid}"
        if locks_held:
            message += f"; it held {', '.join(map(repr, locks_held))}, now marked as abandoned"
        super().__init__(message)
        self.timeout = timeout
        self.task = task
        self.items = items
        self.pid = pid
        self.locks_held = locks_held

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.timeout, self.task, self.items, self.pid, self.locks_held)


class InitializerError(PoolLockError, RuntimeError):
    """The initializer of a pool raised; the cause is the worker's traceback."""
