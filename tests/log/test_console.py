"""LockedLogWriter on sys.stdout and sys.stderr."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import poollock._log.console
import tasks
from helpers import ONE_METHOD, bytes_in_pipe, environment, needs_posix, wait_until
from poollock import Lock, LockedLogHandler, LockedLogWriter

PROGRAM = """if True:
    import sys, tasks, poollock
    if __name__ == "__main__":
        method, name = sys.argv[1:]
        log = poollock.LockedLogWriter(getattr(sys, name))
        with poollock.locked_pool(4, context=method) as pool:
            pool.starmap(tasks.write_long_records, [(log, writer) for writer in range(8)], chunksize=1)
        print("in the buffer")
        log.write("the end\\n")
"""


@pytest.mark.parametrize("method", ONE_METHOD)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("to", ["pipe", "file", pytest.param("terminal", marks=needs_posix)])
def test_many_processes(method: str, name: str, to: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    variables = environment(PYTHONUNBUFFERED="")
    command = [sys.executable, str(program), method, name]
    text = {"pipe": through_pipe, "file": through_file, "terminal": through_terminal}[to](
        command, variables, name, tmp_path
    )
    lines = text.replace("\r\n", "\n").splitlines()
    assert lines.pop() == "the end"
    if name == "stdout":
        assert lines.pop() == "in the buffer"
    assert sorted(lines) == sorted(tasks.long_record(w, n) for w in range(8) for n in range(5))


def through_pipe(command: list[str], environment: Any, name: str, directory: Path) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return str(getattr(done, name))


def through_file(command: list[str], environment: Any, name: str, directory: Path) -> str:
    with (directory / "stdout").open("w") as stdout, (directory / "stderr").open("w") as stderr:
        subprocess.run(command, env=environment, stdout=stdout, stderr=stderr, check=True)
    return (directory / name).read_text()


def through_terminal(command: list[str], environment: Any, name: str, directory: Path) -> str:
    ours, theirs = os.openpty()
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, name: theirs}
    with subprocess.Popen(command, env=environment, **streams) as process:
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 1 << 16):
                text += data
        except OSError:  # all who had the terminal have ended
            pass
        finally:
            os.close(ours)  # which ends a program that still writes, if the test's time is up
    assert process.returncode == 0
    return text.decode()


def test_is_the_stream_of_each_process(capfd: pytest.CaptureFixture[str]) -> None:
    with LockedLogWriter(sys.stderr) as log:
        assert log.name == "<stderr>"
        assert log.fileno() == sys.stderr.fileno()
        assert log.isatty() is False
        assert repr(log) == "<LockedLogWriter '<stderr>'>"
        print("some", "text", file=log)
    with pytest.raises(ValueError, match="closed"):
        log.write("x\n")
    print("still open", file=sys.stderr)
    sys.stderr.flush()
    assert capfd.readouterr().err.split("\n") == [f"some text{os.linesep[:-1]}", "still open", ""]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="<stdout> has no size to be limited"):
        LockedLogWriter(sys.stdout, max_bytes=5)
    with pytest.raises(TypeError, match="StringIO"):
        LockedLogWriter(io.StringIO())


class OnlyWrites:
    """All that print() needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def getvalue(self) -> str:
        return self.text


@pytest.mark.parametrize("kind", [io.StringIO, OnlyWrites])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_stream_without_a_descriptor(name: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else writes to it."""
    stream = kind()
    monkeypatch.setattr(sys, name, stream)
    with LockedLogWriter(getattr(sys, name)) as log:
        print("before", file=stream)
        log.write("one\n")
        print("two", "ä", file=log)
        with log.timed("three"):
            pass
        assert log.isatty() is False
        with pytest.raises(io.UnsupportedOperation, match="fileno"):
            log.fileno()
        with pickle.loads(pickle.dumps(log)) as again:
            again.write("four\n")
        handler = LockedLogHandler(getattr(sys, name))
        handler.handle(logging.LogRecord("name", logging.INFO, "file", 1, "five", None, None))
        handler.close()
    with pytest.raises(ValueError, match="closed"):
        log.write("six\n")
    print("after", file=stream)
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["before", "one", "two", "three", "four", "five", "after"]


def test_what_cannot_be_encoded_is_refused_before_a_stream_without_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    with LockedLogWriter(sys.stdout) as log, pytest.raises(UnicodeEncodeError):
        log.write("\udcff\n")
    with LockedLogWriter(sys.stdout, errors="surrogateescape") as log:
        log.write("\udcff\n")
    assert stream.getvalue() == "\\xff\n"


def test_redirected_output(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        log = LockedLogWriter(sys.stdout)
        log.write("redirected\n")
    log.write("still\n")
    assert stream.getvalue() == "redirected\nstill\n"
    with LockedLogWriter(sys.stdout) as log:
        log.write("captured\n")
    assert capsys.readouterr().out == "captured\n"


def test_worker_writes_to_its_own_console(capsys: pytest.CaptureFixture[str], method: str) -> None:
    """A forked one has a copy of the stream; as with print(), what it writes there nobody sees."""
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=write, args=(LockedLogWriter(sys.stdout),))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert capsys.readouterr().out == ""


def write(log: LockedLogWriter) -> None:
    log.write("from a worker\n")


def write_lines(log: LockedLogWriter) -> None:
    for _ in range(50):
        log.write("x" * 500 + "\n")


def test_threads_share_a_stream_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(OnlyWrites):
        def write(self, text: str) -> None:
            for character in text:
                super().write(character)

    monkeypatch.setattr(sys, "stdout", stream := Slow())
    with LockedLogWriter(sys.stdout) as log, LockedLogWriter(sys.stdout) as other:
        threads = [threading.Thread(target=write_lines, args=(writer,)) for writer in (log, other, log)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stream.text.splitlines() == ["x" * 500] * 150


def test_finalizer_that_writes_in_the_middle_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(OnlyWrites):
        def write(self, text: str) -> None:
            half = len(text) // 2
            super().write(text[:half])
            if text == "outer\n":
                log.write("inner\n")
            super().write(text[half:])

    monkeypatch.setattr(sys, "stdout", stream := Interrupted())
    with LockedLogWriter(sys.stdout) as log:
        log.write("outer\n")
    assert stream.text == "outer\ninner\n"


def test_stream_that_does_more_than_to_write_to_its_descriptor(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as one that copies to a file; it is locked all the same."""

    class Copies(OnlyWrites):
        def fileno(self) -> int:
            return sys.__stdout__.fileno() if sys.__stdout__ else -1

    locks: list[int] = []

    def count(fd: int, operation: int) -> None:
        locks.append(operation)

    monkeypatch.setattr(poollock._log.console, "lockf", count)
    monkeypatch.setattr(sys, "stdout", stream := Copies())
    with LockedLogWriter(sys.stdout) as log:
        log.write("one\n")
    assert stream.text == "one\n"
    assert capfd.readouterr().out == ""
    assert len(locks) == 2


def test_process_without_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    with LockedLogWriter(sys.stdout) as log:
        again: LockedLogWriter = pickle.loads(pickle.dumps(log))
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ValueError, match=r"this process has no sys\.stdout"):
        again.write("x\n")


def test_lock_takes_the_place_of_the_consoles(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held during the write, and no other is."""
    lock = Lock()
    held: list[bool] = []
    write = os.write

    def look_and_write(fd: int, data: bytes) -> int:
        held.append(lock.locked())
        return write(fd, data)

    monkeypatch.setattr(poollock._log.console, "lockf", None)
    with LockedLogWriter(sys.stdout, lock=lock) as log:
        monkeypatch.setattr(os, "write", look_and_write)
        log.write("x\n")
        monkeypatch.undo()
    assert held == [True]
    assert capfd.readouterr().out == f"x{os.linesep}"


def test_two_writers_on_one_terminal(tmp_path: Path) -> None:
    """`lockf` does not keep the threads of a process apart."""
    program = tmp_path / "program.py"
    program.write_text("""if True:
        import sys, threading, poollock
        logs = [poollock.LockedLogWriter(stream) for stream in (sys.stdout, sys.stderr)]
        def write(log, letter):
            for _ in range(20):
                log.write(letter * 200_000 + "\\n")
        threads = [threading.Thread(target=write, args=pair) for pair in zip(logs, "ab")]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """)
    done = subprocess.run(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == ["a" * 200_000] * 20 + ["b" * 200_000] * 20


def test_writer_in_the_place_of_the_stream(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""if True:
        import multiprocessing, sys, poollock
        def work(x):
            print("child")
        if __name__ == "__main__":
            sys.stdout = poollock.LockedLogWriter(sys.stdout)
            print("parent")
            process = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(1,))
            process.start()
            process.join()
    """)
    done = subprocess.run([sys.executable, str(program), method], capture_output=True, text=True, check=True)
    assert done.stdout == "parent\nchild\n"


@needs_posix
def test_console_that_does_not_wait(tmp_path: Path) -> None:
    """Another program that has it may have made it so."""
    program = tmp_path / "program.py"
    program.write_text("""if True:
        import os, sys, poollock
        os.set_blocking(1, False)
        poollock.LockedLogWriter(sys.stdout).write("x" * 1_000_000 + "\\n")
    """)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "x" * 1_000_000 + "\n"


@needs_posix
def test_signal_handler_that_writes_while_the_pipe_has_taken_a_part_of_a_record(tmp_path: Path) -> None:
    """Its record comes after the other one, whole."""
    program = tmp_path / "program.py"
    program.write_text("""if True:
        import signal, sys, poollock
        log = poollock.LockedLogWriter(sys.stdout)
        again = poollock.LockedLogWriter(sys.stdout)
        def handler(*_):
            log.write("inner\\n")
            again.write("again\\n")
        signal.signal(signal.SIGUSR1, handler)
        log.write("x" * 200_000 + "\\n")
        log.write("last\\n")
    """)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        wait_until(lambda: bytes_in_pipe(pipe) >= 65536 or process.poll() is not None)
        process.send_signal(signal.SIGUSR1)
        text = process.stdout.read()
    assert text.split() == ["x" * 200_000, "inner", "again", "last"]


one_mutex = pytest.mark.skipif(sys.platform == "win32", reason="one mutex there for all consoles and pipes")


@pytest.mark.parametrize("target", [pytest.param("sys.stderr", marks=one_mutex), "sys.argv[1]"])
def test_thread_that_reads_the_pipe_of_the_console_and_writes_to_another_log(
    target: str, tmp_path: Path
) -> None:
    """As in a program that copies its output to a file: the pipe is full until that thread goes on."""
    program = tmp_path / "program.py"
    program.write_text(f"""if True:
        import os, sys, threading, poollock
        ours, theirs = os.pipe()
        os.dup2(theirs, 1)
        os.close(theirs)
        console, log = poollock.LockedLogWriter(sys.stdout), poollock.LockedLogWriter({target})
        def copy():
            size = 0
            while size < 1_000_000 + len(os.linesep):
                size += len(os.read(ours, 5000))
                log.write(f"{{size}}\\n")
        thread = threading.Thread(target=copy)
        thread.start()
        console.write("x" * 1_000_000 + "\\n")
        thread.join()
    """)
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "log")], capture_output=True, text=True, check=True
    )
    text = done.stderr if target == "sys.stderr" else (tmp_path / "log").read_text()
    assert text.splitlines()[-1] == str(1_000_000 + len(os.linesep))
