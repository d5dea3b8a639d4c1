"""The errors that fail all tasks of a pool at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from poollock._backend.describe import describe
from poollock._backend.mp_pool import RemoteTraceback
from poollock._errors import InitializerError, PoolLockError, TaskTimeoutError, WorkerDiedError
from poollock._worker.pickling_errors import EXTRA_HINT

if TYPE_CHECKING:
    from .task import Task
    from .worker_handle import WorkerHandle

MakeError: TypeAlias = Callable[[], Exception]


def pool_ended() -> Exception:
    """Return the error of a task that the pool did not live to see done."""
    return broken_pool(
        f"the pool was closed or terminated in {describe()} before this task was done; the end of its `with` "
        "block terminates it"
    )


def thread_failed(how: str) -> Exception:
    """Return the error of a task that was there when something unforeseen happened."""
    return PoolLockError(f"a thread of the pool in {describe()} met an error that it should not meet: {how}")


def task_lost(
    worker: WorkerHandle, task: Task, code: int | None, held: tuple[str, ...], limit: float | None
) -> Exception:
    """Return the error of a task whose worker has ended, or is being ended because of ``task_timeout``.

    Args:
        worker: The worker.
        task: The task.
        code: The worker's exit code, if that is known.
        held: The locks that it held.
        limit: Seconds that a task may run.
    """
    if worker.timed_out:
        return TaskTimeoutError(limit or 0.0, task.describe(), task.items, worker.pid, held)
    return WorkerDiedError(worker.pid, code, task.describe(), held, worker.kill_reason, task.items)


def starts_failed(count: int, how: str) -> Exception:
    """Return the error of a pool whose workers end before they are ready, or cannot be started."""
    return broken_pool(f"{count} workers in a row ended before they were ready; the last one {how}")


def initializer_failed(cause: tuple[str, str]) -> Exception:
    """Return the error of a pool whose initializer raised; *cause* says so, and is the worker's traceback."""
    what, trace = cause
    error = InitializerError(f"{what} in its workers")
    error.__cause__ = RemoteTraceback(f'\n"""\n{trace}"""')
    return error


def main_module_missing(path: str, method: str) -> Exception:
    """Return the error of a pool whose workers would import a main module that is in no file."""
    return broken_pool(
        f"workers that {method!r} starts import the main module, and {path!r} is not there, as for a program "
        f"that is read from standard input: put the program into a file, use context='fork', or {EXTRA_HINT}"
    )


def broken_pool(message: str) -> Exception:
    """Return a ``BrokenPoolError`` with this message, if that can be imported."""
    try:
        from poollock._broken import BrokenPoolError  # noqa: PLC0415 - see there
    except (ImportError, OSError):  # no descriptor is left: whoever waits must get an error all the same
        return PoolLockError(message)
    return BrokenPoolError(message)
