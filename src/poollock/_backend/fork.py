"""Forks that keep open nothing of a program which another thread starts at that moment."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.context import BaseContext
from time import sleep
from traceback import walk_stack
from typing import Any

# Looks are counted, and not time: before each of them the other threads have had the GIL.
_PAUSE = 0.0005  # seconds between two looks
_MANY = 2000  # looks
_FEW = 40  # looks
_DEPTH = 16  # frames; Popen.__init__ calls few others

_threads: set[int] = set()  # those that start processes of ours


@contextmanager
def no_program_starting(ctx: BaseContext) -> Generator[None, None, None]:
    """Have forks inside the block wait until no other thread is within ``subprocess.Popen()``.

    That has pipes open which its program's end, or an error of its start, is to close.  A process that is
    forked meanwhile keeps them open: ``Popen()`` or ``communicate()`` waits until it has ended, too.
    The waits are short, since a program may be slow to start.
    """
    if ctx.get_start_method() != "fork":
        yield
        return
    _wait_for_programs(_MANY)
    thread = threading.get_ident()
    try:
        _threads.add(thread)
        yield
    finally:
        _threads.discard(thread)


def _before_fork() -> None:
    # Immediately before it, since the GIL is given up now and then until it comes to that.  But other hooks
    # may have taken locks already, that of `logging` say; and in the main thread a signal handler might
    # raise here, which would be lost.
    thread = threading.get_ident()
    if thread in _threads and thread != threading.main_thread().ident:
        _wait_for_programs(_FEW)


def _wait_for_programs(looks: int) -> None:
    for _ in range(looks):
        if not _is_program_starting():
            break
        sleep(_PAUSE)


def _is_program_starting() -> bool:
    subprocess: Any = sys.modules.get("subprocess")
    if subprocess is None:
        return False
    code = getattr(subprocess.Popen.__init__, "__code__", None)
    this = threading.get_ident()
    return any(
        frame.f_code is code
        for thread, top in sys._current_frames().items()
        if thread != this
        for frame, _ in islice(walk_stack(top), _DEPTH)
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_threads.clear)
