"""Processes: how one ended, whether one is gone, whether the parent of this one is alive."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from time import monotonic, sleep
from typing import Any

if sys.platform == "win32":
    from .windows import process_is_gone

POLL_INTERVAL = 1.0  # seconds between two checks whether the parent is alive
_EXIT_CODE_TIMEOUT = 2.0  # seconds to wait for the exit code of a process that has ended
_FORK_SERVER_TIMEOUT = 0.5  # seconds for the fork server to end, after it has closed a connection
_REAPED_TIMEOUT = 0.05  # seconds, if somebody else has asked the system for it

_first_parent = os.getppid()


class ProcessStartError(Exception):
    """A process has ended before it had received all that it starts with.

    Attributes:
        code: Its exit code, if that is known.
    """

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


def check_descriptors(count: int) -> None:
    """Raise if this process cannot open *count* more file descriptors now.

    Raises:
        OSError: There are too few.
    """
    if sys.platform == "win32":  # processes and pipes are no file descriptors there
        return
    opened: list[int] = []
    try:
        opened.append(os.open(os.devnull, os.O_RDONLY))
        opened.extend(os.dup(opened[0]) for _ in range(1, count))
    finally:
        for fd in opened:
            os.close(fd)


def exit_code(process: Any) -> int | None:
    """Return the exit code of *process*, which has ended; None if somebody else has read it."""
    deadline = monotonic() + (_REAPED_TIMEOUT if _is_reaped(process) else _EXIT_CODE_TIMEOUT)
    while process.exitcode is None and monotonic() < deadline:  # another thread, or the fork server, has it
        sleep(0.001)
    process.join(0)
    code: int | None = process.exitcode
    return code


def failed_start_exit_code(error: BaseException) -> int | None:
    """Return the exit code of the process whose start by spawn raised *error*; None if it is not known.

    From Python 3.14 on, multiprocessing forgets a process that ends before it has received all that it
    starts with: nobody else would ask for its exit code.
    """
    trace = error.__traceback__
    while trace is not None:
        popen: Any = trace.tb_frame.f_locals.get("self")
        trace = trace.tb_next
        if getattr(popen, "method", None) == "spawn" and hasattr(popen, "sentinel"):
            code: int | None = popen.wait(_EXIT_CODE_TIMEOUT)
            return code
    return None


def fork_server_exit_code() -> int | None:
    """Return the exit code of the fork server of this process, which may have ended; None if it is not known.

    From Python 3.14 on it imports the main module, and ends if that raises.
    """
    from multiprocessing import forkserver  # noqa: PLC0415 - not on Windows

    pid: int | None = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009 - the stubs lack it
    deadline = monotonic() + _FORK_SERVER_TIMEOUT
    while pid is not None and hasattr(os, "waitid"):
        try:  # its entry is left to multiprocessing, which asks for it before the next start
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it belongs to the parent of this process, or its entry is gone
            return None
        if ended is not None:
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        if monotonic() > deadline:
            return None
        sleep(0.001)
    return None


def has_ended(process: Any) -> bool:
    """Return whether *process* has ended."""
    if process._popen.method == "forkserver":
        return is_gone(process.pid)  # it also has an exit code, 255, if the fork server was killed
    return process.exitcode is not None or _is_reaped(process)


def _is_reaped(process: Any) -> bool:
    """Return whether the system knows the process no more, because somebody else has asked for its exit code.

    A program that ignores SIGCHLD has the system do so itself.
    """
    if process._popen.method == "forkserver" or not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def parent_is_gone() -> bool:
    """Return whether the process that started this one has ended.

    The parent's sentinel alone would not do: it is a pipe, and a sibling that was forked
    later holds its other end too.  With forkserver, the parent by pid is the fork server,
    which ends with the program.
    """
    parent = multiprocessing.parent_process()
    return parent is not None and (os.getppid() != _first_parent or not parent.is_alive())


def dead_parent() -> int:
    """Return the pid of the process that started this one with multiprocessing, if it has ended; else 0."""
    parent = multiprocessing.parent_process()
    if parent is None or not parent_is_gone():
        return 0
    if _first_parent != parent.pid and parent.is_alive():  # a worker has forked this one, and ended
        return 0
    return parent.pid or 0


def is_gone(pid: int) -> bool:
    """Return whether there is no process *pid* any more."""
    if sys.platform == "win32":  # there, os.kill() ends it
        return process_is_gone(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def other_threads() -> set[int | None]:
    """Return the idents of the threads that are alive, but for the running one's."""
    return {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}


def _after_fork() -> None:
    global _first_parent  # noqa: PLW0603 - one per process, like the pid
    _first_parent = os.getppid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
