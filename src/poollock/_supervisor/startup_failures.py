"""Workers that end before they are ready, or cannot be started: how many in a row a pool puts up with."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from functools import partial

from poollock._backend.describe import describe_exit, show_error, was_killed
from poollock._backend.process import ProcessStartError
from poollock._worker.framing import MESSAGE

from .failures import MakeError, initializer_failed, starts_failed
from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter

_LIMIT = 3
_LIMIT_IF_KILLED = 12  # perhaps nothing is wrong with a worker that somebody else has killed

# What the error says of a worker that has ended, if it was sent nothing yet and has sent nothing.
_RAISED = (
    " while it started Python and imported the main module; what it wrote to stderr says why. The main "
    "module is to make its pools under if __name__ == '__main__':"
)
_KILLED = " while it started Python and imported the main module, which takes memory"


class StartupFailures:
    """Has workers replaced that were never ready, unless there were too many in a row.

    Args:
        starter: Starts the workers.
        workers: Those that there are.
    """

    def __init__(self, starter: WorkerStarter, workers: Iterable[WorkerHandle]) -> None:
        self._starter = starter
        self._workers = workers
        self._initializer_error: tuple[str, str] | None = None  # what it raised, and the traceback

    def message(self, worker: WorkerHandle, number: int, payload: memoryview) -> None:
        """Take in a message of a worker that is not ready.

        It has imported the main module, or it is ready, or the message is what its initializer raised.
        """
        if number == MESSAGE:
            worker.has_main_module = True
        elif payload:
            self._initializer_error = pickle.loads(payload)
        else:
            worker.ready = True
            self._starter.failures = 0
            self._initializer_error = None

    def ended(self, code: int | None, *, has_main_module: bool) -> MakeError | None:
        """Take in that a worker has ended before it was ready.

        Args:
            code: Its exit code, if that is known.
            has_main_module: Whether it had the main module by then, by importing it or by being forked.

        Returns:
            What makes the error of all tasks, if it was one too many.
        """
        by_itself = self._initializer_error is not None or not was_killed(code)
        if has_main_module:
            where = " in its initializer, or while it received the initializer's arguments"
        else:
            where = _RAISED if by_itself else _KILLED
        return self._count(describe_exit(code) + where, _LIMIT if by_itself else _LIMIT_IF_KILLED)

    def not_started(self, error: BaseException) -> Callable[[], MakeError | None]:
        """Return what is to be called, as ``ended``, for a worker that could not be started.

        This itself runs in any thread, because the text of *error* is made by code of the user.
        """
        if isinstance(error, ProcessStartError):
            return partial(self.ended, error.code, has_main_module=False)
        return partial(self._count, f"could not be started: {show_error(error)}", _LIMIT)

    def _count(self, how: str, limit: int) -> MakeError | None:
        self._starter.failures += 1
        if self._starter.stopped:
            return None
        if self._starter.failures < limit or any(worker.ready for worker in self._workers):
            self._starter.request_start()
            return None
        self._starter.stop()
        if self._initializer_error:
            return partial(initializer_failed, self._initializer_error)
        return partial(starts_failed, self._starter.failures, how)
