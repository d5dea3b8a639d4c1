"""What a pool has open, and a process that may open no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import start_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX")


OPENED = """
import os, sys
from poollock import locked_pool

def opened(size):
    with locked_pool(size, context=sys.argv[1]) as pool:
        pool.map(abs, range(100), chunksize=1)
        return len(os.listdir("/proc/self/fd"))

if __name__ == "__main__":
    opened(1)  # starts the fork server, which stays
    print(opened(9) - opened(1))
"""


def test_three_descriptors_for_each_worker(method: str, tmp_path: Path) -> None:
    """In a process of its own: what earlier tests left to the garbage collector is closed at any time."""
    program = tmp_path / "program.py"
    program.write_text(OPENED)
    with start_program(program, method) as process:
        assert process.communicate() == (f"{8 * 3}\n", "")


NEAR_THE_LIMIT = """
import multiprocessing, os, resource, sys
from poollock import locked_pool

def task(lock, x):
    return x

if __name__ == "__main__":
    with locked_pool(1, context=sys.argv[1]) as pool:  # starts the fork server
        pool.map(abs, range(3))
    opened = len(os.listdir("/proc/self/fd"))
    for free in range(30, 42):
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + free, 1024))
        try:
            pool = locked_pool(10, context=sys.argv[1])
        except OSError as error:
            print("refused", error)
        else:
            with pool:
                assert pool.map_async(task, range(100)).get() == [*range(100)]
            print("works")
        assert not multiprocessing.active_children()
"""


def test_too_few_descriptors_are_an_error_of_the_constructor(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(NEAR_THE_LIMIT)
    command = [sys.executable, str(program), method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 12, done.stderr
    assert "Too many open files: 10 workers take 3 each; see `ulimit -n`" in lines[0]
    assert lines[-1] == "works"
