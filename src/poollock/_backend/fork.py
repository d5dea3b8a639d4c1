"""Forks a process that keeps open nothing of a program which another thread starts at that moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from threading import get_ident
from time import monotonic, sleep
from traceback import walk_stack
from typing import Any

_LONGEST_WAIT = 1.0  # seconds for other threads to start their programs
_PAUSE = 0.0005  # seconds between two looks

_threads: set[int] = set()  # those that start a process of ours


@contextmanager
def no_program_starting() -> Generator[None, None, None]:
    """Have a fork inside the block wait until no other thread is within ``subprocess.Popen()``.

    That has pipes open which the program's end, or an error of its start, is to close.  A worker that is
    forked meanwhile would keep them open: ``Popen()`` or ``communicate()`` would wait until it ends.
    """
    thread = get_ident()
    _threads.add(thread)
    try:
        yield
    finally:
        _threads.discard(thread)


def _before_fork() -> None:
    # Just before the fork, and not before all that precedes it: a thread needs the GIL to go on to its pipes.
    if get_ident() not in _threads:
        return
    deadline = monotonic() + _LONGEST_WAIT  # a program on a slow disk must not keep the pool for ever
    while _program_starting() and monotonic() < deadline:
        sleep(_PAUSE)


def _program_starting() -> bool:
    subprocess: Any = sys.modules.get("subprocess")
    if subprocess is None:
        return False
    code = getattr(subprocess.Popen.__init__, "__code__", None)
    this = get_ident()
    return any(
        frame.f_code is code
        for thread, top in sys._current_frames().items()
        if thread != this
        for frame, _ in walk_stack(top)
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_threads.clear)
