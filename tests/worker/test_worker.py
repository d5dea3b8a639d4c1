"""How workers start, and what Ctrl-C does to them: nothing, the parent decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import SemLock
from pathlib import Path
from typing import Any

import pytest

import tasks
from helpers import children, needs_posix, open_files, wait_until
from poollock import LockedPool, locked_pool


@needs_posix
def test_worker_ignores_sigint(pool: LockedPool) -> None:
    assert pool.apply(tasks.survive, (signal.SIGINT,)) == "survived"


@needs_posix
def test_programs_that_a_task_starts_can_be_interrupted(
    factory: Callable[..., LockedPool], method: str
) -> None:
    with factory(1, maxtasksperchild=1, context=method) as pool:
        for _ in range(2):  # the first worker, and one that took its place
            blocked, ignored = pool.apply(tasks.signals_of_a_program)
            assert signal.SIGINT not in blocked
            assert signal.SIGINT not in ignored


@needs_posix
def test_threads_of_the_pool_leave_signals_as_they_are() -> None:
    """Programs that a callback or a generator of items starts can be interrupted, too."""
    seen: list[Any] = []

    def look(_: object) -> None:
        seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    def items() -> Iterator[int]:
        look(None)
        yield 1

    with locked_pool(1) as pool:
        pool.apply_async(tasks.add, (1,), callback=look).wait()
        assert list(pool.imap(tasks.add, items())) == [1]
    assert seen == [set(), set()]


@needs_posix
def test_parent_gets_its_signals_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with locked_pool(1):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    def fail() -> None:
        raise OSError("no space for semaphores")

    monkeypatch.setattr(SemLock, "_make_name", staticmethod(fail))
    with pytest.raises(OSError, match="no space for semaphores"):
        locked_pool(1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_ctrl_c_while_the_pool_is_made(
    factory: Callable[..., LockedPool], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(process: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        start(process)

    start = BaseProcess.start
    monkeypatch.setattr(BaseProcess, "start", interrupt)
    before = children()
    with pytest.raises(KeyboardInterrupt):
        factory(2, context=method)
    assert children() == before


START = """
import os, sys, time
from pathlib import Path
from poollock import locked_pool, manager_locked_pool

if __name__ == "__main__":
    try:
        with {factory}(2, context=sys.argv[1]) as pool:
            pool.map(abs, range(100))
            Path("mapped").touch()
    except KeyboardInterrupt:
        sys.exit(130)
else:
    Path(f"importing-{{os.getpid()}}").touch()
    while not Path("go").exists():
        time.sleep(0.005)
"""


@needs_posix
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ctrl_c_while_workers_import_the_program(method: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(START.format(factory="locked_pool"))
    with subprocess.Popen(
        [sys.executable, "program.py", method],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        # From Python 3.14 on, the fork server imports it, once, and shows what Ctrl-C does to it.
        by_server = method == "forkserver" and sys.version_info >= (3, 14)
        wait_until(lambda: len(list(tmp_path.glob("importing-*"))) == (1 if by_server else 2))
        os.killpg(process.pid, signal.SIGINT)
        (tmp_path / "go").touch()
        assert process.stderr is not None
        *_, last = process.stderr.read().splitlines() or [""]
        assert last == ("KeyboardInterrupt" if by_server else "")
    assert process.returncode == 130
    assert not (tmp_path / "mapped").exists()


BESIDE = """
import multiprocessing, signal, sys
from poollock import locked_pool

def blocked(queue):
    queue.put(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with locked_pool(1, context=context) as pool:
        queue = context.SimpleQueue()
        process = context.Process(target=blocked, args=(queue,))
        process.start()
        print(queue.get())
        process.join()
"""


@needs_posix
def test_other_processes_of_the_program_can_be_interrupted(method: str, tmp_path: Path) -> None:
    """The fork server, which the pool may be the first to use, must not inherit a blocked signal."""
    program = tmp_path / "program.py"
    program.write_text(BESIDE)
    done = subprocess.run([sys.executable, str(program), method], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


@needs_posix
def test_a_worker_has_no_other_pipe_than_its_own(method: str) -> None:
    before = open_files()  # what an earlier test has left to be closed
    with locked_pool(4, context=method) as pool:
        found = dict(pool.map(tasks.sockets, range(200), chunksize=1))
        ours = open_files() + before
        own = [link for links in found.values() for link in links if link not in ours]
        assert len(own) == len(set(own)) == len(found)
