"""Tasks that do not end, in a module that is imported quickly: its import is a part of the first task."""

from __future__ import annotations

import re
import signal
import time
from typing import Any


def ignore_sigterm(_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def compute(_: int) -> None:
    while True:
        pass


def compute_in_c(_: int) -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def hold_and_sleep(lock: Any, _: int) -> None:
    with lock:
        time.sleep(60)


def wait_for_lock(lock: Any, _: int) -> None:
    with lock:
        pass


def square(x: int) -> int:
    return x * x
