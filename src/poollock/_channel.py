"""Between the pool and its workers: one pipe for tasks, one for results, shared by all workers."""

from __future__ import annotations

import os
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from multiprocessing.reduction import ForkingPickler
from multiprocessing.synchronize import Lock
from typing import Any, TypeAlias

from ._interrupts import leave_interrupts_to_parent
from ._pickling import dump_task, load_task

# (job, index, function, args, kwds): how multiprocessing.pool passes a task around.
Task: TypeAlias = tuple[int, int, Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]

_HEADER = struct.Struct("QQ")  # job, index
_SENTINEL = b""

_LOOK_UP = 0.1  # seconds between looks at whether the workers were stopped
_PATIENCE = 1.0  # seconds to wait for a result that is being sent when the pool is terminated

_task_queues: weakref.WeakSet[TaskQueue] = weakref.WeakSet()
_result_queues: weakref.WeakSet[ResultQueue] = weakref.WeakSet()


class TaskQueue(SimpleQueue[Any]):
    """The tasks, on their way to any worker; each is unpickled only when it is run."""

    _reader: Connection
    _writer: Connection
    _rlock: Lock

    def __init__(self, ctx: BaseContext) -> None:
        super().__init__(ctx=ctx)
        _task_queues.add(self)

    def __setstate__(self, state: Any) -> None:
        standard: Any = super()  # not in typeshed
        standard.__setstate__(state)
        leave_interrupts_to_parent()  # the worker is still unpickling what it is: the earliest moment

    def put(self, obj: Task | None) -> None:
        """Send a task, or the sentinel that ends a worker.

        Raises:
            Exception: The task cannot be pickled; the message says why.
        """
        if obj is None:
            self._writer.send_bytes(_SENTINEL)
        else:
            job, index, func, args, kwds = obj
            self._writer.send_bytes(_HEADER.pack(job, index) + dump_task(func, args, kwds))

    def get(self) -> Task | None:
        """Wait for a task, or for the sentinel.

        Raises:
            EOFError: The parent has ended.
        """
        with self._rlock:
            data = self._reader.recv_bytes()
        if data == _SENTINEL:
            return None
        job, index = _HEADER.unpack_from(data)
        return job, index, _run, (memoryview(data)[_HEADER.size :],), {}

    def drain(self, task_handler: threading.Thread) -> None:
        """Take out what is left, as long as *task_handler* may be waiting for room."""
        self._rlock.acquire()  # and keep it: no worker is to take another task
        while task_handler.is_alive() and self._reader.poll():
            self._reader.recv_bytes()


class ResultQueue(SimpleQueue[Any]):
    """The results, on their way to the parent."""

    _reader: Connection
    _writer: Connection
    _wlock: Lock
    _stopped = False

    def __init__(self, ctx: BaseContext) -> None:
        super().__init__(ctx=ctx)
        _result_queues.add(self)

    def put(self, obj: Any) -> None:
        """Send a result; a worker whose parent has ended ends here."""
        data = ForkingPickler.dumps(obj)
        while not self._stopped and not self._wlock.acquire(timeout=_LOOK_UP):
            pass
        try:
            self._writer.send_bytes(data)
        except BrokenPipeError:
            sys.exit(0)
        finally:
            if not self._stopped:
                self._wlock.release()

    def stop_workers(self) -> None:
        """Let no worker send another result: one that is ended while it does would leave the lock taken.

        From here on only the parent's own sentinels go through, each in one write.
        """
        self._stopped = self._wlock.acquire(timeout=_PATIENCE)


def _run(data: memoryview) -> Any:
    func, args, kwds = load_task(data)
    return func(*args, **kwds)


def _close_parents_ends() -> None:
    """Close the ends that only the pool's process may have open.

    A worker learns from the end of its pipe that the parent has ended; it would not if
    processes that were forked later, workers of other pools say, held the same end open.
    """
    for tasks in list(_task_queues):
        tasks._writer.close()
    for results in list(_result_queues):
        results._reader.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_parents_ends)
