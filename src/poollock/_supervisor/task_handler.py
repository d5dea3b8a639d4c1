"""The task handler: takes the tasks from the users' iterables and hands them out."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from poollock._backend.describe import show_error
from poollock._backend.mp_pool import helper_reraises_exception
from poollock._worker.pickling_errors import explain_pickling_error
from poollock._worker.task_pickling import dump_task

from .callbacks import report
from .dispatcher import Dispatcher
from .failures import MakeError, task_handler_failed
from .results import PendingResults
from .task import Task
from .wakeup import Wakeup


class TaskHandler:
    """What lies between the methods of a pool and the dispatcher.

    Args:
        dispatcher: Gets the tasks.
        outcomes: The results that are waited for.
        inbox: Of the result handler, which alone may set results.

    Attributes:
        broken: Makes the error that each task gets from now on, if the pool is broken.
        ended: Whether no more tasks will come.
    """

    def __init__(self, dispatcher: Dispatcher, outcomes: PendingResults, inbox: Wakeup) -> None:
        self.broken: MakeError | None = None
        self.ended = False
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._inbox = inbox

    def run(self, tasks: SimpleQueue[Any]) -> None:
        """Be the thread that takes what the pool's methods put into *tasks*, until that is None."""
        for sequence, set_length in iter(tasks.get, None):
            try:
                self._put_all(sequence, set_length)
            except BaseException as error:  # noqa: BLE001 - none is known; nobody is to wait for ever if there is one
                report()
                failure = partial(task_handler_failed, show_error(error))
                self._inbox.post(partial(self._outcomes.fail_all, failure))
            del sequence, set_length  # nothing of it is to stay alive until the next comes
        self.ended = True
        self._inbox.wake()

    def _put_all(self, sequence: Iterable[Any], set_length: Any) -> None:
        count = 0
        for count, task in enumerate(sequence, 1):  # noqa: B007 - it is used below
            if not self._put(*task):
                return
        if set_length is not None:
            self._inbox.post(partial(self._outcomes.set_length, set_length.__self__, count))

    def _put(self, job: int, index: int, func: Any, args: tuple[Any, ...], kwds: Any) -> bool:
        if not self._outcomes.are_awaited_of(job):  # it has failed as a whole
            return False
        if func is helper_reraises_exception:  # what an iterable raised
            self._inbox.post(partial(self._outcomes.end, job, index, args[0]))
        elif self.broken:
            self._fail(job, index, self.broken())
        else:
            made = Task(job, index, func, args)
            try:
                made.payload = dump_task(func, args, kwds)
            except BaseException as error:  # noqa: BLE001 - sys.exit() in a __reduce__ is the task's, too
                self._fail(job, index, self._explained(error, made, func, args, kwds))
            else:
                self._dispatcher.put(made)
        return True

    def _explained(self, error: BaseException, task: Task, *what: Any) -> BaseException:
        if isinstance(error, Exception):
            with suppress(BaseException):  # whatever the user's objects do when they are looked at
                name, first = self._outcomes.name(task), self._outcomes.first_item(task)
                return explain_pickling_error(error, *what, name=name, first=first)
        return error

    def _fail(self, job: int, index: int, error: BaseException) -> None:
        self._inbox.post(partial(self._outcomes.set, [(job, index, (False, error))]))
