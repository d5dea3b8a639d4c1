"""Workers that end before they are ready, or cannot be started: how many in a row there may be."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from functools import partial

from poollock._backend.describe import describe_exit, show_error
from poollock._backend.process import ProcessStartError

from .failures import MakeError, initializer_failed, starts_failed
from .worker_handle import WorkerHandle
from .worker_starter import WorkerStarter

_MOST = 3
_MOST_KILLED = 12  # perhaps nothing is wrong with them


class StartupFailures:
    """Has a worker replaced that was never ready, unless there were too many of them.

    Args:
        crew: StartupFailures the workers.
        workers: Those that there are.
    """

    def __init__(self, crew: WorkerStarter, workers: Iterable[WorkerHandle]) -> None:
        self._crew = crew
        self._workers = workers
        self._cause: tuple[str, str] | None = None  # what the initializer raised

    def greeted(self, worker: WorkerHandle, payload: memoryview) -> None:
        """Hear from a worker for the first time: it is ready, or what its initializer raised."""
        if payload:
            self._cause = pickle.loads(payload)
        else:
            worker.ready = True
            self._crew.failures = 0
            self._cause = None

    def ended(self, code: int | None) -> MakeError | None:
        """Learn that a worker has ended before it was ready.

        Args:
            code: Its exit code, if that is known.

        Returns:
            What makes the error of all tasks, if it was one too many.
        """
        by_itself = self._cause is not None or (code is not None and code >= 0)
        return self._count(describe_exit(code), _MOST if by_itself else _MOST_KILLED)

    def failed(self, error: BaseException) -> Callable[[], MakeError | None]:
        """Return what is to be called, as ``ended``, for a worker that could not be started.

        This itself runs in any thread, and the user's code in it: that of the error.
        """
        if isinstance(error, ProcessStartError):
            return partial(self.ended, error.code)
        return partial(self._count, f"could not be started: {show_error(error)}", _MOST)

    def _count(self, how: str, most: int) -> MakeError | None:
        self._crew.failures += 1
        if self._crew.stopped:
            return None
        if self._crew.failures < most or any(worker.ready for worker in self._workers):
            self._crew.ask()
            return None
        self._crew.stop()
        if self._cause:
            return partial(initializer_failed, self._cause)
        return partial(starts_failed, self._crew.failures, how)
