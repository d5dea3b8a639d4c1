"""What a worker inherits of the program's signal handling, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

PROGRAM = """
import asyncio, os, signal, sys
from poollock import locked_pool, manager_locked_pool

def handle(*_):
    with open("handled", "a") as file:
        file.write(f"{os.getpid()} ")

def seen(_):
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.set_wakeup_fd(-1)

async def serve(got):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, got.append, "SIGTERM")
    for maxtasks in None, 1:
        with locked_pool(2, context=sys.argv[1], maxtasksperchild=maxtasks) as pool:
            print({*await loop.run_in_executor(None, pool.map, seen, range(8), 1)})

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, handle)
    for make in locked_pool, manager_locked_pool:
        with make(2, context=sys.argv[1]) as pool:
            pool.map(seen, range(8), 1)
    got = []
    asyncio.run(serve(got))
    print(got, os.path.exists("handled"))
"""


def test_workers_have_no_handler_of_the_program(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), method]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["{(True, -1)}", "{(True, -1)}", "[] False"]
