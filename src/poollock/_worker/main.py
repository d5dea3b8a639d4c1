"""What runs in a worker: the pool's locks put in place, then one task after the other."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import get_spawning_popen
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias

from poollock._backend.describe import show_error
from poollock._backend.signals import ignore_sigint, reset_sigterm, unblock_sigint
from poollock._locks import waiting
from poollock._locks.base import BaseLock
from poollock._locks.registry import install_locks
from poollock._locks.shared_words import SharedWords

from .object_pickling import ObjectPickler
from .outcome_pickling import dump_error, dump_result, without_warnings
from .task_pickling import run_task
from .wait_reporter import WaitReporter
from .worker_socket import WorkerSocket

if TYPE_CHECKING:
    from poollock._trace.recorder import Recorder

# What a worker puts in place first: locks by their names, other locks, the initializer and its arguments.
InitArgs: TypeAlias = (
    "tuple[Mapping[str, BaseLock], Iterable[BaseLock], Callable[..., object] | None, tuple[Any, ...]]"
)

# The message of a worker after which it takes tasks; if it cannot, the message says why.
_READY = b""
_LONGEST = 500  # characters of an error that are told


class StartupData:
    """What a worker starts with, beside its socket.

    A forked worker inherits it.  To any other it is sent through the worker's socket, because
    the pipe by which multiprocessing starts a process blocks for ever if the process dies before it
    has read all of it.

    Args:
        contents: The words that the worker shares with the pool, a multiprocessing lock (only who
            holds it writes the words), the arguments of the worker's initialization, and the words in
            which the worker records what it does, if the pool makes a trace.
        pickler: Pickles for the worker.
    """

    def __init__(
        self,
        contents: tuple[SharedWords, Any, InitArgs, SharedWords | None] | None = None,
        pickler: ObjectPickler | None = None,
    ) -> None:
        self.contents = contents
        self._pickler = pickler
        self.payload = b""  # what is to be sent

    def __reduce__(self) -> tuple[Any, ...]:
        # Now: locks can be pickled only while a process is being started.
        if self._pickler is not None:
            descriptors = getattr(get_spawning_popen(), "_fds", [])
            self.payload = self._pickler.dump_for_start(self.contents, descriptors)
        return type(self), ()


def run_worker(connection: WorkerSocket, maxtasks: int, startup_data: StartupData) -> None:
    """Run the tasks that come through *connection*, at most *maxtasks* of them."""
    ignore_sigint()
    reset_sigterm()
    unblock_sigint()
    connection.open()
    try:
        contents = startup_data.contents
        message = b"" if contents else connection.receive()
        step = "unpickling the initializer, its arguments and the locks"
        try:
            words, lock, init_args, trace = contents or pickle.loads(message)
            step = "the initializer of the pool"
            recorder = None if trace is None else _start_recorder(trace, init_args)
            locks = _initialize(init_args)
        except BaseException as error:  # noqa: BLE001 - sys.exit() among them: the pool is told
            text = without_warnings(traceback.format_exc)
            connection.send(pickle.dumps((f"{step} raised {_shorten(show_error(error))}", text)))
            return
        del startup_data, contents, message, init_args
        waiting.observe(WaitReporter(connection, words.view))
        connection.send(_READY)
        for count, payload in enumerate(connection.tasks(words.view, lock), 1):
            begun = perf_counter_ns()
            outcome = _run(payload, locks)
            if recorder is not None:
                recorder.add_task(begun)
            connection.send(outcome, (perf_counter_ns() - begun) // 1000)
            del outcome  # or it would be in memory until the next one is there
            if count == maxtasks:
                return
    except ConnectionError:  # the pool has ended
        return


def _start_recorder(words: SharedWords, init_args: InitArgs) -> Recorder:
    from poollock._trace.recorder import Recorder  # noqa: PLC0415 - few programs want it

    recorder = Recorder(words)
    recorder.start([*init_args[0].values(), *init_args[1]])
    return recorder


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _initialize(init_args: InitArgs) -> list[BaseLock]:
    """Install the locks, call the initializer, and return the locks that no task may keep."""
    named, others, initializer, initargs = init_args
    install_locks(named, others)
    both: set[Any] = {*named.values(), *others}
    locks = [lock for lock in both if isinstance(lock, BaseLock)]  # not one whose creator has ended
    if initializer is None:
        return locks
    initializer(*initargs)
    # A lock that the initializer has taken stays this worker's, whatever its tasks do.
    return [lock for lock in locks if not lock._is_held_here()]


def _run(payload: memoryview, locks: Iterable[BaseLock]) -> bytes:
    """Run a task and return its outcome as bytes.

    No name here outlives the task: an error leads to the frames of the task, and they to all
    that it used.
    """
    try:
        value = run_task(payload)
    except BaseException as error:  # noqa: BLE001 - sys.exit() and the like fail the task, not the worker
        return dump_error(error, _release_held(locks))
    return dump_result(value, _release_held(locks))


def _release_held(locks: Iterable[BaseLock]) -> list[str]:
    """Release what a task has left held; return the descriptions of these locks."""
    return [lock.name or lock.description for lock in locks if lock._release_if_held()]
