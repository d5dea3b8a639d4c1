"""What runs in a worker: undisturbed by Ctrl-C, with the pool's locks in place, one task after the other."""

from __future__ import annotations

import os
import pickle
import reprlib
import socket
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter_ns
from typing import Any, TypeAlias

from poollock._backend.mp_pool import ExceptionWithTraceback, MaybeEncodingError
from poollock._backend.process import POLL_INTERVAL, parent_is_gone
from poollock._backend.sigint import ignore_sigint, unblock_sigint
from poollock._locks.base import BaseLock, title
from poollock._locks.registry import install_locks
from poollock._locks.shared_words import SharedWords

from .framing import FrameReader, dump, header
from .task_pickling import run_task

# The words that a worker shares with the pool: the number of the task that it began last, and
# the numbers, from the first up to the last, of tasks that it is to pass over.
BEGUN = 0
VOID_FROM = 1
VOID_TO = 2
WORDS = 3

# What a worker puts in place first: locks by their names, other locks, the initializer and its arguments.
InitArgs: TypeAlias = (
    "tuple[Mapping[str, BaseLock], Iterable[BaseLock], Callable[..., object] | None, tuple[Any, ...]]"
)

_READY = b""  # what a worker sends first; or what its initializer raised
_SMALL = 1 << 16  # bytes; more is not copied to be sent in one call

_made: weakref.WeakSet[WorkerEnd] = weakref.WeakSet()  # by the pools of this process, for their workers
_open: weakref.WeakSet[WorkerEnd] = weakref.WeakSet()  # this process's own


class StartupData:
    """What a worker gets beside its pipe: through it, or at once if it is forked.

    It may be large, and multiprocessing would wait for ever for a process that has ended before
    it has read all that it was started with.

    Args:
        contents: The words that the worker shares with the pool, a multiprocessing lock (who has
            that may write the words), and the setup.
    """

    def __init__(self, contents: tuple[SharedWords, Any, InitArgs] | None = None) -> None:
        self.contents = contents
        self.payload = b""  # what is to be sent

    def __reduce__(self) -> tuple[Any, ...]:
        self.payload = dump(self.contents)  # now: only while a process is being started do locks travel whole
        return type(self), ()


class WorkerEnd:
    """A worker's end of its pipe.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        _made.add(self)

    def __setstate__(self, state: Any) -> None:
        ignore_sigint()  # the worker is still unpickling what it is: the earliest moment
        self.__dict__.update(state)

    def open(self) -> None:
        """Make this the running process's pipe: it keeps no other, and what it forks does not keep this."""
        for end in list(_made):
            if end is not self:
                end.sock.close()
        self.sock.settimeout(None)
        _open.add(self)

    def send(self, payload: bytes, number: int = 0) -> None:
        """Send a frame, waiting until all of it is on its way."""
        start = header(payload, number)
        if len(payload) <= _SMALL:
            self.sock.sendall(start + payload)
        else:
            self.sock.sendall(start)
            self.sock.sendall(payload)

    def receive(self) -> memoryview:
        """Return the only message that there is so far."""
        reader = FrameReader(self.sock)
        while reader.receive():
            for _, payload in reader.frames():
                return payload
        raise BrokenPipeError("the pool has ended")

    def tasks(self, words: memoryview[int], claims: Any) -> Iterator[memoryview]:
        """Yield the tasks that arrive, as long as there is a pool to send them."""
        reader = FrameReader(self.sock)
        try:
            while reader.receive():
                for number, payload in reader.frames():
                    if _claim(number, words, claims):
                        yield payload
                if reader.begun:  # a long one: it is this worker's from here on
                    words[BEGUN] = reader.begun
        except OSError:  # the pool has ended, or a task has closed the pipe
            return


def _claim(number: int, words: memoryview[int], claims: Any) -> bool:
    """Sign for a task; return False if the pool has taken it back."""
    while not claims.acquire(timeout=POLL_INTERVAL):
        if parent_is_gone():
            raise BrokenPipeError
    try:
        if words[VOID_FROM] <= number < words[VOID_TO]:
            return False
        words[BEGUN] = number
        return True
    finally:
        claims.release()


def run_worker(end: WorkerEnd, maxtasks: int, startup_data: StartupData) -> None:
    """Run the tasks that come through *end*, at most *maxtasks* of them."""
    ignore_sigint()
    unblock_sigint()
    end.open()
    try:
        contents = startup_data.contents
        message = b"" if contents else end.receive()
        try:
            words, claims, setup = contents or pickle.loads(message)
            held = _prepare(setup)
        except BaseException as error:  # noqa: BLE001 - sys.exit() among them: the pool is told
            end.send(dump((_show(error), traceback.format_exc())))
            return
        del startup_data, contents, message, setup
        end.send(_READY)
        for done, payload in enumerate(end.tasks(words.view, claims), 1):
            begun = perf_counter_ns()
            outcome = _run(payload, held)
            end.send(outcome, (perf_counter_ns() - begun) // 1000)
            del outcome
            if done == maxtasks:
                return
    except BrokenPipeError:  # the pool has ended
        return


def _prepare(setup: InitArgs) -> list[BaseLock]:
    """Put all in place; return the locks that no task is to keep."""
    locks, others, initializer, initargs = setup
    install_locks(locks, others)
    # Not those that stand for one whose maker has ended.
    both: set[Any] = {*locks.values(), *others}
    held = [lock for lock in both if isinstance(lock, BaseLock)]
    if initializer is None:
        return held
    initializer(*initargs)
    # What the initializer has taken is this worker's, whatever its tasks do.
    return [lock for lock in held if not lock._is_held_here()]


def _run(payload: memoryview, locks: Iterable[BaseLock]) -> bytes:
    """Run a task; return its outcome as bytes: success, value, and the locks that it left held."""
    value: Any
    try:
        success, value = True, run_task(payload)
    except BaseException as error:  # noqa: BLE001 - sys.exit() and the like fail the task, not the worker
        success, value = False, ExceptionWithTraceback(error, error.__traceback__)
    left = [title(lock) for lock in locks if lock._release_if_held()]
    try:
        outcome = dump((success, value, left))
        if not success:  # the exception may need other arguments than those that it is sent with
            pickle.loads(outcome)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must not cost the worker
        return dump((False, _unsendable(error, value), left))
    return outcome


def _unsendable(error: BaseException, value: Any) -> Any:
    if not isinstance(value, ExceptionWithTraceback):
        return MaybeEncodingError(error, _Shown(value))
    unsendable = ExceptionWithTraceback(MaybeEncodingError(error, _Shown(value.exc)), None)
    unsendable.tb = value.tb
    return unsendable


class _Shown:
    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return _show(self._value)


def _close_ends() -> None:
    """Close the pipe in what a task forks: it would keep it open, and answer in the worker's name."""
    for end in list(_open):
        end.sock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_ends)


def _show(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except Exception as error:  # noqa: BLE001 - an object may fail to show itself
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
