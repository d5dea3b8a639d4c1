"""What runs in a worker: the pool's locks put in place, then one task after the other."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter_ns
from typing import Any, TypeAlias

from poollock._backend.process import POLL_INTERVAL, parent_is_gone
from poollock._backend.signals import ignore_sigint, reset_sigterm, unblock_sigint
from poollock._locks.base import BaseLock, title
from poollock._locks.registry import install_locks
from poollock._locks.shared_words import SharedWords

from .framing import FrameReader, dump, header
from .outcome_pickling import dump_error, dump_result, show
from .task_pickling import run_task

# The words that a worker shares with the pool: the number of the task that it began last, and
# the numbers, from the first up to the last, of tasks that the pool has revoked.
LAST_BEGUN = 0
REVOKED_FROM = 1
REVOKED_TO = 2
WORDS = 3

# What a worker puts in place first: locks by their names, other locks, the initializer and its arguments.
InitArgs: TypeAlias = (
    "tuple[Mapping[str, BaseLock], Iterable[BaseLock], Callable[..., object] | None, tuple[Any, ...]]"
)

_READY = b""  # the first message of a worker; if its initializer raised, the message says what
_SMALL = 1 << 16  # bytes; a larger message is not copied to be sent in one call

_created: weakref.WeakSet[WorkerSocket] = weakref.WeakSet()  # by the pools of this process, for their workers
_own: weakref.WeakSet[WorkerSocket] = weakref.WeakSet()  # of this process, if it is a worker


class StartupData:
    """What a worker starts with, beside its socket.

    A forked worker inherits it.  To any other it is sent through the worker's socket, because
    the pipe by which multiprocessing starts a process blocks for ever if the process dies before it
    has read all of it.

    Args:
        contents: The words that the worker shares with the pool, a multiprocessing lock (only who
            holds it writes the words), and the arguments of the worker's initialization.
    """

    def __init__(self, contents: tuple[SharedWords, Any, InitArgs] | None = None) -> None:
        self.contents = contents
        self.payload = b""  # what is to be sent

    def __reduce__(self) -> tuple[Any, ...]:
        self.payload = dump(self.contents)  # now: locks can be pickled only while a process is being started
        return type(self), ()


class WorkerSocket:
    """A worker's end of the socket pair between it and the pool.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        _created.add(self)

    def __setstate__(self, state: Any) -> None:
        ignore_sigint()  # a spawned worker runs this before it imports the main module
        self.__dict__.update(state)

    def open(self) -> None:
        """Make this the running process's socket: it keeps no other, and what it forks does not keep this."""
        for other in list(_created):
            if other is not self:
                other.sock.close()
        self.sock.settimeout(None)
        _own.add(self)

    def send(self, payload: bytes, number: int = 0) -> None:
        """Send a frame, and wait until the system has all of it."""
        start = header(payload, number)
        if len(payload) <= _SMALL:
            self.sock.sendall(start + payload)
        else:
            self.sock.sendall(start)
            self.sock.sendall(payload)

    def receive(self) -> memoryview:
        """Return the payload of the next frame, in a worker that has received none."""
        reader = FrameReader(self.sock)
        while reader.receive():
            for _, payload in reader.frames():
                return payload
        raise BrokenPipeError("the pool has ended")

    def tasks(self, words: memoryview[int], lock: Any) -> Iterator[memoryview]:
        """Yield the tasks that arrive, until the pool closes its end of the socket."""
        reader = FrameReader(self.sock)
        try:
            while reader.receive():
                for number, payload in reader.frames():
                    if _begin(number, words, lock):
                        yield payload
                if reader.begun:  # a large task has arrived in part: from here on it is this worker's
                    words[LAST_BEGUN] = reader.begun
        except OSError:  # the pool has ended, or a task has closed the socket
            return


def _begin(number: int, words: memoryview[int], lock: Any) -> bool:
    """Record that a task begins; return False if the pool has revoked it."""
    while not lock.acquire(timeout=POLL_INTERVAL):
        if parent_is_gone():
            raise BrokenPipeError
    try:
        if words[REVOKED_FROM] <= number < words[REVOKED_TO]:
            return False
        words[LAST_BEGUN] = number
        return True
    finally:
        lock.release()


def run_worker(connection: WorkerSocket, maxtasks: int, startup_data: StartupData) -> None:
    """Run the tasks that come through *connection*, at most *maxtasks* of them."""
    ignore_sigint()
    reset_sigterm()
    unblock_sigint()
    connection.open()
    try:
        contents = startup_data.contents
        message = b"" if contents else connection.receive()
        try:
            words, lock, init_args = contents or pickle.loads(message)
            locks = _initialize(init_args)
        except BaseException as error:  # noqa: BLE001 - sys.exit() among them: the pool is told
            connection.send(dump((show(error), traceback.format_exc())))
            return
        del startup_data, contents, message, init_args
        connection.send(_READY)
        for count, payload in enumerate(connection.tasks(words.view, lock), 1):
            begun = perf_counter_ns()
            outcome = _run(payload, locks)
            connection.send(outcome, (perf_counter_ns() - begun) // 1000)
            del outcome  # or it would be in memory until the next one is there
            if count == maxtasks:
                return
    except BrokenPipeError:  # the pool has ended
        return


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
    return [title(lock) for lock in locks if lock._release_if_held()]


def _close_after_fork() -> None:
    """Close the socket in what a task forks: it would keep it open, and could answer in the worker's name."""
    for own in list(_own):
        own.sock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
