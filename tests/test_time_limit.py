"""A test that hangs takes nothing with it: what `conftest.py` adds to pytest-timeout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TESTS, environment, running

# Four ways to wait for ever. After the second, nothing of the module's pool is left but its manager's files.
HANGS = """
import os, signal, subprocess, threading, time
from pathlib import Path

import fault_tasks, helpers, pytest
from poollock import locked_pool, manager_locked_pool

HERE = Path(__file__).parent
own = []

@pytest.fixture(scope="module")
def factory():
    return manager_locked_pool

@pytest.fixture(scope="module")
def method():
    return "spawn"

# The signal of the time limit comes as soon as a file is there, however long that takes.
def end_once(path):
    def send():
        helpers.wait_until(path.exists)
        os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=send, daemon=True).start()

def sleep():
    process = subprocess.Popen(["sleep", "600"])
    (HERE / "pids" / str(process.pid)).touch()
    return process

def test_program():
    process = sleep()
    try:
        end_once(HERE / "pids" / str(process.pid))
        time.sleep(600)
    finally:
        process.wait()
        (HERE / "cleaned up").touch()

def test_worker_of_the_modules_pool(pool):
    end_once(HERE / "holds")
    pool.apply(fault_tasks.hold_while, (pool.lock, str(HERE / "holds")))

def test_module_goes_on(pool):
    with pool.lock:
        pass
    assert pool.map(fault_tasks.square, range(5)) == [0, 1, 4, 9, 16]

def test_pool_of_its_own():
    end_once(HERE / "stays")
    own.append(locked_pool(2))
    own[0].apply(fault_tasks.stay_while, (str(HERE / "stays"),))

def test_nothing_is_left():
    assert helpers.children() == set()

@pytest.mark.timeout(6)
def test_clean_up_that_hangs_too():
    try:
        time.sleep(600)
    finally:
        with sleep():
            pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a time limit ends the whole run")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_time_limit_ends_what_the_test_started(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "pids").mkdir()
    (tmp_path / "test_hangs.py").write_text(HANGS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "--timeout=60", str(tmp_path)],
        cwd=tmp_path,
        env=environment(TESTS / "faults"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 failed, 2 passed" in done.stdout, done.stdout
    assert (tmp_path / "cleaned up").exists()  # before a second signal came
    pids = [path.name for path in (tmp_path / "pids").iterdir()]
    pids += [(tmp_path / name).read_text() for name in ("holds", "stays")]
    assert len(pids) == 4
    assert not any(running(int(pid)) for pid in pids)
