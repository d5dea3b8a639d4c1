"""Tasks that write their pid to a file and do not end, in a module that is imported quickly."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

from fault_tasks import write_pid


def stay(path: str) -> None:
    write_pid(path)
    time.sleep(60)


def stay_or_square(x: int | str) -> int:
    if isinstance(x, int):
        return square(x)
    stay(x)
    raise AssertionError


def ignore_sigterm(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay(path)


def compute(path: str) -> None:
    write_pid(path)
    while True:
        pass


def compute_in_c(path: str) -> None:
    write_pid(path)
    re.match(r"(a+)+$", "a" * 60 + "b")


def hold_and_stay(lock: Any, path: str) -> None:
    with lock:
        stay(path)


def wait_for_lock(lock: Any, path: str) -> None:
    write_pid(path)
    with lock:
        pass


def square(x: int) -> int:
    return x * x
