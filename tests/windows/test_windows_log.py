"""The log on Windows: locks of files, appending, the console, rotation."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import environment, kill, wait_until
from poollock import LockedLogHandler, LockedLogWriter, locked_pool

if sys.platform != "win32":
    pytest.skip("what is particular to Windows", allow_module_level=True)
assert sys.platform == "win32"  # for type checkers that do not see that the line before raises

from poollock._backend import files, flock, windows

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def held_by_a_process(target: Callable[..., object], *args: Any) -> Any:
    """Start a process that runs *target*, and then waits; return it when it has run that."""
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_run_and_wait, args=(sender, target, args))
    process.start()
    sender.close()
    assert receiver.recv() == "done"
    return process


def _run_and_wait(sender: Any, target: Callable[..., object], args: tuple[Any, ...]) -> None:
    kept = target(*args)
    sender.send("done")
    time.sleep(600)
    del kept


def end(process: Any) -> None:
    kill(process.pid)
    process.join()


def open_and_lock(path: str) -> int:
    fd = windows.open_to_append(path, create=True)
    flock.flock(fd, flock.LOCK_EX)
    return fd


# The lock of a file.


def test_lock_of_a_file_is_free_when_its_process_is_killed(path: Path) -> None:
    process = held_by_a_process(open_and_lock, str(path))
    fd = windows.open_to_append(str(path), create=False)
    with files.closing_fd(fd):
        with pytest.raises(BlockingIOError):
            flock.flock(fd, flock.LOCK_EX | flock.LOCK_NB)
        end(process)
        flock.flock(fd, flock.LOCK_EX)
        flock.flock(fd, flock.LOCK_UN)


def test_who_waits_for_the_lock_of_a_file_gets_it(path: Path) -> None:
    """However long that takes: msvcrt.locking gave up after ten tries, a second apart."""
    fd = open_and_lock(str(path))
    with files.closing_fd(fd):
        process = SPAWN.Process(target=write_one, args=(str(path),))
        process.start()
        process.join(12)
        assert process.is_alive()
        assert path.read_bytes() == b""
        flock.flock(fd, flock.LOCK_UN)
        process.join()
    assert process.exitcode == 0
    assert path.read_text() == "one\n"


def write_one(path: str) -> None:
    with LockedLogWriter(path) as log:
        log.write("one\n")


def test_lock_that_is_not_held_is_given_back(path: Path) -> None:
    fd = windows.open_to_append(str(path), create=True)
    with files.closing_fd(fd):
        os.write(fd, b"12345")
        os.lseek(fd, 2, os.SEEK_SET)
        flock.flock(fd, flock.LOCK_UN)
        flock.flock(fd, flock.LOCK_EX)
        flock.flock(fd, flock.LOCK_UN)
        flock.flock(fd, flock.LOCK_UN)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 2  # other processes may share the position


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"fsync": True},
        {"max_bytes": 5000, "backup_count": 500},
    ],
)
def test_four_thousand_records_of_four_processes(path: Path, options: dict[str, Any]) -> None:
    number = 100 if "fsync" in options else 1000
    with LockedLogWriter(path, **options) as log, locked_pool(5) as pool:
        if "max_bytes" in options:  # a process that has the file open while others rename it again and again
            late = pool.apply_async(write_at_both_ends, (log, str(path) + ".20"))
        pool.starmap(write_lines, [(log, writer, number) for writer in range(4)], chunksize=1)
        if "max_bytes" in options:
            late.get()
    found = sorted(path.parent.glob("log*"), key=lambda file: file.stat().st_mtime_ns)
    lines: list[str] = []
    for file in found:
        data = file.read_bytes().decode()
        assert data.endswith("\r\n")
        assert len(data) <= options.get("max_bytes", 1 << 30)
        lines += data.split("\r\n")[:-1]
    expected = [line(writer, count) for writer in range(4) for count in range(number)]
    if "max_bytes" in options:
        expected += ["the first", "the last"]
        assert len(found) > 20
    assert sorted(lines) == sorted(expected)


def line(writer: int, count: int) -> str:
    return f"{writer} {count} {'x' * (count % 80)}"


def write_lines(log: LockedLogWriter, writer: int, number: int) -> None:
    for count in range(number):
        log.write(line(writer, count) + "\n")


def write_at_both_ends(log: LockedLogWriter, until: str) -> None:
    log.write("the first\n")
    wait_until(lambda: os.path.exists(until))
    log.write("the last\n")


# What has the file open, too.


APPENDING_CHILD = """if True:
    import os, sys, time
    for number in range(3):
        while not os.path.exists(f"{sys.argv[1]}-{number}"):
            time.sleep(0.005)
        print("child", number, flush=True)
"""


def test_child_appends(path: Path) -> None:
    """What a child process writes to the descriptor is at the end, and so is what comes after it.

    One after the other: Wine, unlike Windows, looks for the end of a file and then writes, in two steps.
    """
    log: Any  # for typeshed, subprocess takes a descriptor or an IO[str]
    expected: list[str] = []
    go = str(path.parent / "go")
    with LockedLogWriter(path) as log:
        child = subprocess.Popen([sys.executable, "-c", APPENDING_CHILD, go], stdout=log)
        for number in range(3):
            log.write(f"own {number}\n")
            expected += [f"own {number}", f"child {number}"]
            Path(f"{go}-{number}").touch()
            wait_until(lambda: path.read_text().count("\n") == len(expected))  # noqa: B023 - it waits here
        child.wait()
        log.write("after\n")
    assert path.read_text().splitlines() == [*expected, "after"]


def test_record_cut_short_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handle may append, and nothing else."""
    write = os.write

    def write_a_part(fd: int, data: bytes) -> int:
        write(fd, data[:3])
        raise KeyboardInterrupt

    with LockedLogWriter(path) as log:
        log.write("first\n")
        with monkeypatch.context() as patched:
            patched.setattr("poollock._log.log_file.write", write_a_part)
            with pytest.raises(KeyboardInterrupt):
                log.write("second\n")
        log.write("third\n")
    assert path.read_text() == "first\nthird\n"


# The console.


def test_pipe_is_locked_for_the_programs_processes() -> None:
    reader, writer = os.pipe()
    try:
        assert not windows.has_file_locks(writer)
        flock.lockf(writer, flock.LOCK_EX)
        with locked_pool(1) as pool:
            assert not pool.apply(can_lock_a_pipe)
            flock.lockf(writer, flock.LOCK_UN)
            assert pool.apply(can_lock_a_pipe)
        process = held_by_a_process(lock_a_pipe)
        with pytest.raises(BlockingIOError):
            flock.lockf(writer, flock.LOCK_EX | flock.LOCK_NB)
        end(process)
        flock.lockf(writer, flock.LOCK_EX)
        flock.lockf(writer, flock.LOCK_UN)
    finally:
        os.close(reader)
        os.close(writer)


def lock_a_pipe() -> tuple[int, int]:
    ends = os.pipe()
    flock.lockf(ends[1], flock.LOCK_EX)
    return ends


def can_lock_a_pipe() -> bool:
    _, writer = os.pipe()
    try:
        flock.lockf(writer, flock.LOCK_EX | flock.LOCK_NB)
    except BlockingIOError:
        return False
    flock.lockf(writer, flock.LOCK_UN)
    return True


CONSOLE = """if True:
    import sys, poollock, tasks
    if __name__ == "__main__":
        with poollock.LockedLogWriter(sys.stdout) as log, poollock.locked_pool(4) as pool:
            pool.starmap(tasks.write_records, [(log, writer, 100) for writer in range(4)], chunksize=1)
"""


@pytest.mark.parametrize("to", ["pipe", pytest.param("file", marks=pytest.mark.slow)])
def test_records_of_a_console_are_whole(tmp_path: Path, to: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(CONSOLE)
    command = [sys.executable, str(program)]
    if to == "pipe":
        text = subprocess.run(
            command, env=environment(), stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run(command, env=environment(), stdout=file, check=True)
        text = (tmp_path / "out").read_text()
    found = sorted(tuple(map(int, each.split(":")[:2])) for each in text.splitlines())
    assert found == [(writer, number) for writer in range(4) for number in range(100)]


# Rotation.


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(0, marks=pytest.mark.slow),
        1,
        2,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4)),
    ],
)
def test_killed_between_the_steps_of_a_rotation(path: Path, steps: int) -> None:
    """The next writer finishes it.  All but what was to be removed is there."""
    with LockedLogWriter(path, max_bytes=3, backup_count=3) as log:
        for number in range(4):
            log.write(f"{number}\n")
        kept = [windows.open_to_append(f"{path}.3", create=False)]  # so that it cannot simply be replaced
        process = SPAWN.Process(target=rotate_and_die, args=(log, steps))
        process.start()
        process.join()
        assert process.exitcode == 9
        assert path.with_suffix(".1").exists() or path.with_suffix(".2").exists()
        log.write("4\n")
        os.close(kept.pop())
        log.write("5\n")
    found = {file.name: file.read_text() for file in path.parent.iterdir()}
    assert found == {"log": "5\n", "log.1": "4\n", "log.2": "3\n", "log.3": "2\n"}


def rotate_and_die(log: LockedLogWriter, steps: int) -> None:
    done = 0

    def dies_after(step: Callable[..., None]) -> Callable[..., None]:
        def do(*names: str) -> None:
            nonlocal done
            if done == steps:
                os._exit(9)
            step(*names)
            done += 1

        return do

    os.rename = dies_after(os.rename)
    os.replace = dies_after(os.replace)
    os.unlink = dies_after(os.unlink)
    log.write("lost\n")
    os._exit(9)


def test_file_that_must_not_be_renamed_grows(path: Path) -> None:
    """A program that opens a file as most do does not let others rename it."""
    with LockedLogWriter(path, max_bytes=5, backup_count=2) as log:
        for number in range(3):
            log.write(f"{number}2\n")
        with path.open(), pytest.warns(RuntimeWarning, match="grows on, since it cannot be renamed"):
            log.write("33\n")
        assert path.read_text() == "22\n33\n"
        log.write("44\n")
    found = {file.name: file.read_text() for file in path.parent.iterdir()}
    assert found == {"log": "44\n", "log.1": "22\n33\n", "log.2": "12\n"}


def copy_and_remove(source: str, target: str) -> None:
    Path(target).write_bytes(Path(source).read_bytes())
    os.remove(source)


under_wine = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


@pytest.mark.parametrize(
    "rotator",
    [
        shutil.move,
        pytest.param(
            copy_and_remove, marks=pytest.mark.skipif(under_wine, reason="Wine removes no file that is open")
        ),
    ],
)
def test_rotator(path: Path, rotator: Callable[..., object]) -> None:
    """Other processes have the file open; what they write afterwards is not lost with it."""
    with LockedLogWriter(path) as other:
        other.write("0\n")
        handler = LockedLogHandler(path, maxBytes=5, backupCount=5)
        handler.rotator = rotator
        for number in range(1, 4):
            handler._write(f"{number}\n")
            other.write("x\n")
        handler.close()
    lines = [text for file in path.parent.glob("log*") for text in file.read_text().split()]
    assert sorted(lines) == ["0", "1", "2", "3", "x", "x", "x"]
    assert not list(path.parent.glob("*rotating*"))


def test_rotator_is_given_another_name(path: Path) -> None:
    """Under its own name, a file that is open would keep that if it were removed."""
    names: list[str] = []

    def note_and_move(source: str, target: str) -> None:
        names.append(source)
        os.rename(source, target)

    handler = LockedLogHandler(path, maxBytes=5, backupCount=5)
    handler.rotator = note_and_move
    for number in range(3):
        handler._write(f"{number}2\n")
    handler.close()
    assert names == [f"{path}.rotating-0"] * 2


def leave(source: str, target: str) -> None:
    pass


def test_rotator_that_leaves_the_file(path: Path) -> None:
    handler = LockedLogHandler(path, maxBytes=5, backupCount=5)
    handler.rotator = leave
    for number in range(3):
        handler._write(f"{number}\n")
    handler.close()
    assert path.read_text() == "0\n1\n2\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_two_logs_of_one_directory_rotate(tmp_path: Path) -> None:
    with locked_pool(4) as pool:
        pool.starmap(rotate_often, [(str(tmp_path / f"log{n % 2}"), n) for n in range(4)], chunksize=1)
    lines = [text for file in tmp_path.iterdir() for text in file.read_text().split()]
    assert sorted(lines) == sorted(f"{writer}:{number}" for writer in range(4) for number in range(50))


def rotate_often(path: str, writer: int) -> None:
    with LockedLogWriter(path, max_bytes=20, backup_count=200) as log:
        for number in range(50):
            log.write(f"{writer}:{number}\n")


def test_directory_is_locked(path: Path) -> None:
    process = held_by_a_process(lock_directory, str(path))
    with flock.locked_directory(str(path), 0) as locked:
        assert not locked
    end(process)
    with flock.locked_directory(str(path), 0) as locked:
        assert locked


def lock_directory(path: str) -> Any:
    locked = flock.locked_directory(path, 0)
    assert locked.__enter__()
    return locked
