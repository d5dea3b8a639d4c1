"""The futures of ``LockedPool.submit``; not imported before one is wanted, for what it imports itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from poollock._typing import override

from .callbacks import report_exception

if TYPE_CHECKING:
    from .jobs import Job, PendingJobs


class CallRunner(Protocol):
    """Who runs the call of a future: an ``EventLoop``."""

    pending: PendingJobs

    @abstractmethod
    def has_begun(self, job: Job, /) -> bool:
        """Return whether a worker has begun the call."""

    @abstractmethod
    def call(self, call: Callable[[], object], /) -> None:
        """Have *call* made by the thread that sets results; wait for that, unless the thread has ended."""

    @abstractmethod
    def withdraw(self, job: Job, /) -> bool:
        """See to it that no worker begins the call; return False if one has."""


class PoolFuture(Future[Any]):
    """The future of a call in a worker.

    Its callbacks run in the pool's thread for callbacks, not in the one that sets results; if it is
    done already, at once, in the thread that adds them.

    Args:
        event_loop: The event loop of the pool.
    """

    def __init__(self, event_loop: CallRunner) -> None:
        super().__init__()
        self._event_loop = event_loop
        self._job: Job | None = None  # until it is done

    def belongs_to(self, job: Job) -> None:
        """Be the future of *job*."""
        self._job = job

    @override
    def running(self) -> bool:
        """Return whether a worker has begun the call, and not ended it."""
        job = self._job
        return job is not None and not self.done() and self._event_loop.has_begun(job)

    @override
    def cancel(self) -> bool:
        """Cancel the call, which is then never run; return False if it has begun, or is done."""
        job = self._job
        if job is not None and not self.done():
            self._event_loop.call(partial(self._withdraw, job))
        return self.cancelled()

    def _withdraw(self, job: Job) -> None:
        if self._event_loop.withdraw(job) and super().cancel():
            self._job = None
            self.set_running_or_notify_cancel()  # whoever waits for several futures learns of it

    @override
    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call *fn* with this future when it is done or cancelled."""
        if self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(partial(self._schedule, fn))

    def _schedule(self, callback: Callable[[Any], object], future: Any) -> None:
        self._event_loop.pending.callbacks.put(partial(_call, callback, self))


def _call(callback: Callable[[Any], object], future: PoolFuture) -> None:
    try:
        callback(future)
    except BaseException:  # noqa: BLE001 - sys.exit() in it must not end the pool's thread
        report_exception()


class FutureResult:
    """Sets a future; see ``Result``.

    Args:
        future: The future.
    """

    def __init__(self, future: PoolFuture) -> None:
        self._future: PoolFuture | None = future
        self._outcome: tuple[bool, Any] = False, None

    def add(self, index: int, success: bool, value: Any) -> None:  # noqa: FBT001 - see Result
        """Take in the outcome of the call."""
        self._outcome = success, value

    def finish(self) -> None:
        """Leave it to ``release`` to set the future."""

    def fail(self, error: BaseException) -> None:
        """Have ``release`` set *error*."""
        self._outcome = False, error

    def release(self) -> None:
        """Set the future."""
        future, self._future = self._future, None
        if future is None:
            return
        (success, value), self._outcome = self._outcome, (False, None)
        future._job = None
        try:
            with suppress(InvalidStateError):  # it has been cancelled meanwhile
                if success:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        finally:
            del future, value  # an error leads to this frame
