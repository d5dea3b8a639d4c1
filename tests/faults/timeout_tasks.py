"""Tasks that do not end, each in its own way; before that they write their pid to a file."""

from __future__ import annotations

import re
import signal
from typing import Any

from fault_tasks import stay_while, write_pid


def ignore_sigterm(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay_while(path)


def compute(path: str) -> None:
    write_pid(path)
    while True:
        pass


def compute_in_c(path: str) -> None:
    write_pid(path)
    re.match(r"(a+)+$", "a" * 60 + "b")


def wait_for_lock(lock: Any, path: str) -> None:
    write_pid(path)
    with lock:
        pass
