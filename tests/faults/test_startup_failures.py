"""Workers that do not start, and initializers that fail."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import METHODS, Factory, children, open_files, wait_until, workers
from poollock import (
    BrokenPoolError,
    InitializerError,
    WorkerDiedError,
    locked_pool,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.mark.parametrize("fault", ["exception", "exit"])
def test_initializer_raises(factory: Factory, method: str, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "calls"
    with factory(2, tasks.count_and_fail, (str(path), fault), context=method) as pool:
        results = [pool.apply_async(tasks.square, (x,)) for x in range(5)]
        for result in results:
            with pytest.raises(InitializerError, match=r"raised (ValueError|SystemExit)") as caught:
                result.get()
            assert str(caught.value).startswith("the initializer of the pool raised")
            assert fault != "exception" or "in a text that is told and not cut, however long" in str(
                caught.value
            )
            assert "in count_and_fail" in str(caught.value.__cause__)
        with pytest.raises(InitializerError):
            pool.map(tasks.square, range(5))
        with pytest.raises(InitializerError):
            list(pool.imap(tasks.square, itertools.count()))
        assert len(path.read_text().split()) <= 6


def test_initializer_that_fails_once_each_time(factory: Factory, method: str, tmp_path: Path) -> None:
    path = tmp_path / "fails"
    path.touch()
    with factory(1, tasks.fail_once, (str(path),), context=method) as pool:
        for _ in range(4):  # in a row, three would be too many
            assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
            path.touch()
            with pytest.raises(WorkerDiedError):
                pool.apply(tasks.kill)


# What was killed may have been well: more of those have to die.
@pytest.mark.parametrize(("fault", "starts"), [("SIGKILL", range(12, 15)), ("C exit", range(3, 7))])
def test_workers_die_before_they_are_ready(
    factory: Factory, method: str, tmp_path: Path, fault: str, starts: range
) -> None:
    path = tmp_path / "calls"
    how = "was killed by SIGKILL" if fault == "SIGKILL" else "ended with exit code 0"
    with factory(2, tasks.count_and_fail, (str(path), fault), context=method) as pool:
        with pytest.raises(
            BrokenPoolError, match=f"before they were ready; the last one {how} in its initializer"
        ) as caught:
            pool.map(tasks.square, range(5))
        assert "main module" not in str(caught.value)
        with pytest.raises(BrokenPoolError):
            pool.apply(tasks.square, (1,))
        assert len(path.read_text().split()) in starts


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize(("fault", "error"), [("SIGKILL", BrokenPoolError), ("exception", InitializerError)])
def test_workers_die_before_they_have_what_they_are_started_with(
    factory: Factory, method: str, fault: str, error: type[Exception]
) -> None:
    """It is more than a pipe holds."""
    arguments = tasks.AtUnpickling(fault), bytes(1 << 20)
    with (
        factory(2, tasks.pass_over, arguments, context=method) as pool,
        pytest.raises(error, match=r"initializer's arguments|unpickling the initializer, its arguments"),
    ):
        pool.map(tasks.square, range(5))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
def test_worker_dies_while_it_is_started(
    factory: Factory, method: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Then the way to it, or to the fork server, may end."""
    start, failures = BaseProcess.start, iter([error, None, error])

    def fail_at_times(process: BaseProcess) -> None:
        start(process)
        if (
            isinstance(process, ctx.Process)
            and "PoolWorker" in process.name
            and (failure := next(failures, None))
        ):
            process.kill()
            process.join()
            raise failure

    ctx: Any = multiprocessing.get_context(method)
    monkeypatch.setattr(BaseProcess, "start", fail_at_times)
    with factory(2, context=method) as pool:
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        wait_until(lambda: len(workers(pool)) == 2)
    assert next(failures, "all were raised") == "all were raised"


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize("error", [ConnectionRefusedError, EOFError])
def test_pickling_of_initargs_fails_as_if_a_worker_had_ended(
    factory: Factory, method: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="as ordered"):
        factory(2, tasks.pass_over, [tasks.FailsAtPickling(error)], context=method)


def test_replacement_cannot_be_started(
    factory: Factory, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Exception):  # noqa: N818 - it is what happened
        def __str__(self) -> str:  # noqa: PLE0307 - nor does it return anything else
            sys.exit("as initargs might, when they are pickled")

    def refuse(_: object) -> None:
        raise Refused

    with factory(1, context=method) as pool:
        monkeypatch.setattr(BaseProcess, "start", refuse)
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.kill)
        with pytest.raises(BrokenPoolError, match=r"3 workers in a row.*could not be started: Refused$"):
            pool.apply(tasks.square, (2,))


@pytest.mark.skipif("spawn" not in METHODS, reason="needs spawn")
def test_python_that_ends_at_once() -> None:
    def pipes() -> set[str]:
        return {link for link in open_files() if link.startswith(("pipe:", "socket:"))}

    resource_tracker.ensure_running()  # it is no worker
    before = pipes()
    multiprocessing.set_executable("/bin/true")
    try:
        with (
            locked_pool(2, context="spawn") as pool,
            pytest.raises(BrokenPoolError, match=r"\d workers in a row.*the last one ended with exit code 0"),
        ):
            pool.map(tasks.square, range(5))
    finally:
        multiprocessing.set_executable(sys.executable)
    wait_until(lambda: pipes() <= before)
    assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is None  # nobody is left unburied


def test_initializer_that_failed_once_is_not_what_fails_later(
    factory: Factory, method: str, tmp_path: Path
) -> None:
    path = tmp_path / "fault"
    path.write_text("exception")
    with factory(1, tasks.fail_as_told, (str(path),), context=method) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        path.write_text("C exit")
        with pytest.raises(WorkerDiedError):
            pool.apply(tasks.kill)
        with pytest.raises(BrokenPoolError, match="exit code 0"):
            pool.apply(tasks.square, (3,))


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_initializer_runs_though_the_pool_is_closed_at_once(
    factory: Factory, method: str, tmp_path: Path, size: int
) -> None:
    pool = factory(2, tasks.touch, (str(tmp_path), bytes(size)), context=method)
    pool.close()
    pool.join()
    assert len(list(tmp_path.iterdir())) == 2


BAD_MAIN = """
import sys
from poollock import locked_pool

def f(*_):
    pass

if __name__ == "__main__":
    with locked_pool(2, f, [bytes(int(sys.argv[2]))], context=sys.argv[1]) as pool:
        try:
            pool.map(f, range(10))
        except Exception as error:
            print(type(error).__name__, error)
else:
    raise ImportError("this main module cannot be imported")
"""


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.parametrize("size", [0, 1 << 20])
def test_workers_cannot_import_the_main_module(tmp_path: Path, method: str, size: int) -> None:
    (tmp_path / "bad_main.py").write_text(BAD_MAIN)
    done = subprocess.run(
        [sys.executable, "bad_main.py", method, str(size)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("BrokenPoolError 3 workers in a row")
    assert "ended with exit code 1 while it started Python and imported the main module" in done.stdout


@pytest.mark.parametrize("threads", range(4))
def test_pool_that_gets_so_many_threads(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Of all that it wants: it ends with an error, and leaves nothing; or it does without more."""
    before, left = children(), iter(range(threads))
    reported: list[object] = []
    start = threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    monkeypatch.setattr(threading, "excepthook", reported.append)
    try:
        with locked_pool(2) as pool:
            assert pool.apply(tasks.square, (3,)) == 9
    except (RuntimeError, BrokenPoolError):
        assert threads < 3
    assert children() == before
