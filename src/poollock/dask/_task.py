"""What runs in a Dask worker around a task function."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from poollock._errors import PoolLockError
from poollock._locks.base import BaseLock
from poollock._locks.registry import task_locks
from poollock._worker.outcome_pickling import dump_error, dump_result
from poollock._worker.task_pickling import call, unpickling_error

from ._dask import PICKLER, CloudPickler, get_worker
from ._locks import RunningTask, running_task
from ._session import Session, session_here
from ._task_table import task_owner

LARGE = 1 << 20  # bytes; an outcome of less goes to its owner through the scheduler, as soon as the task ends
_KEPT_FUNCTIONS = 16  # how many jobs' functions a worker keeps


class NotBegunError(Exception):
    """Dask has sent a task to a worker that must not begin it: it has begun elsewhere, or nobody wants it."""


def run_task(client: str, job: str, index: int, description: str, payload: bytes) -> bytes | None:
    """Run a task, if it has not begun anywhere, and send its outcome to who waits for it.

    Args:
        client: The session of who waits for it.
        job: The name of its job.
        index: Which task of that it is.
        description: What a message calls it.
        payload: The rest of it, as bytes: what ``dump_arguments`` returned.

    Returns:
        The outcome as bytes if it is large, for the client to fetch; else ``None``.

    Raises:
        NotBegunError: The task must not begin here.
        PoolLockError: The connection to the scheduler has ended.
    """
    session = session_here()
    try:
        function = _begin(session, client, job, index, description)
    except PoolLockError:
        if not session.lost:
            raise
        # It may have begun or not: through a new connection the scheduler says which.
        session = session_here()
        function = _begin(session, client, job, index, description)
    session.running += 1
    token = running_task.set(RunningTask(task_owner(job, index), description))
    try:
        try:
            outcome = _run(session, function, payload)
        except BaseException as error:  # noqa: BLE001 - no such error is known; whoever waits must get one
            outcome = dump_error(error, [], PICKLER)
        if (
            len(outcome) <= LARGE
            or not session.ask("end_large", job=job, index=index, worker=get_worker().address)["ok"]
        ):
            session.tell("end", job=job, index=index, outcome=outcome)
            return None
        return outcome
    finally:
        running_task.reset(token)
        session.running -= 1


def _begin(session: Session, client: str, job: str, index: int, description: str) -> bytes:
    """Sign for a task and return its function, as bytes."""
    function = session.functions.get(job)
    answer = session.ask(
        "begin", client=client, job=job, index=index, task=description, knows_function=function is not None
    )
    if not answer["ok"]:
        raise NotBegunError(f"{description} has begun on another worker, or nobody waits for it any more")
    if function is not None:
        return function
    received: bytes = answer["function"]
    functions = session.functions
    functions[job] = received
    while len(functions) > _KEPT_FUNCTIONS:
        functions.pop(next(iter(functions)), None)
    return received


def _run(session: Session, function: bytes, payload: bytes) -> bytes:
    """Run a task and return its outcome as bytes; no name here outlives it, as in a local pool's worker."""
    token = None
    try:
        try:
            func, locks = pickle.loads(function)
            token = task_locks.set(locks)
            how, args, kwds = pickle.loads(payload)
        except Exception as error:
            raise unpickling_error(error) from error
        value = call(how, func, args, kwds)
    except BaseException as error:  # noqa: BLE001 - sys.exit() and the like fail the task, not the worker
        return dump_error(error, _release_held(session), PICKLER)
    finally:
        if token is not None:
            task_locks.reset(token)
    return dump_result(value, _release_held(session), PICKLER)


def _release_held(session: Session) -> list[str]:
    """Release what the task has left held; return the names of these locks."""
    task = running_task.get()
    names: list[str] = []
    for name, grants in list(session.grants.items()):
        for grant in [grant for grant in grants if grant.task is task]:
            session.tell("release", number=grant.number)
            grants.remove(grant)
            names.append(name.partition("/")[2])
    return names


def dump_function(func: Any, locks: Mapping[str, BaseLock]) -> bytes:
    """Return the function of a job as bytes, with the locks that ``current_lock()`` finds in it.

    Raises:
        Exception: What pickling raised.
    """
    return PICKLER.dump((func, dict(locks)))


def dump_arguments(
    pickler: CloudPickler, how: int, func: Any, args: tuple[Any, ...], kwds: Mapping[str, Any]
) -> bytes:
    """Return a task without its function as bytes: the parameters of ``call``.

    Raises:
        Exception: What pickling raised.
    """
    return pickler.dump((how, args, dict(kwds)))
