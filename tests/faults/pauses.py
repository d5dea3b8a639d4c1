"""Run a command while each processor pauses now and then, as those of a busy virtual machine do.

    python tests/faults/pauses.py [--every 0.8] [--longest 1.2] python -m pytest

A test that depends on how fast something is, or that looks at something which another thread changes, fails
then sooner or later.  Linux only, and it takes the right to run with real-time priority.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import subprocess
import sys
import time


def pause(cpu: int, every: float, longest: float) -> None:
    """Keep one processor from all others, for some milliseconds mostly."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while True:
        time.sleep(random.expovariate(1 / every))
        end = time.monotonic() + min(longest, random.lognormvariate(-3.5, 1.5))
        while time.monotonic() < end:
            pass


def main() -> None:
    """Run it as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=float, default=0.8, help="seconds between two pauses, on average")
    parser.add_argument("--longest", type=float, default=1.2, help="seconds that a pause takes at most")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    for cpu in os.sched_getaffinity(0):
        args = cpu, options.every, options.longest
        multiprocessing.get_context("fork").Process(target=pause, args=args, daemon=True).start()
    sys.exit(subprocess.run(options.command, check=False).returncode)


if __name__ == "__main__":
    main()
