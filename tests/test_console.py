"""LockedLogWriter on sys.stdout and sys.stderr."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tasks
from poollock import Lock, LockedLogWriter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not run there")

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


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("to", ["pipe", "file", "terminal"])
def test_many_processes(method: str, name: str, to: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, str(program), method, name]
    text = {"pipe": through_pipe, "file": through_file, "terminal": through_terminal}[to](
        command, environment, name, tmp_path
    )
    lines = text.replace("\r\n", "\n").splitlines()
    assert lines.pop() == "the end"
    if name == "stdout":
        assert lines.pop() == "in the buffer"
    assert sorted(lines) == sorted(tasks.long_record(w, n) for w in range(8) for n in range(20))


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
        os.close(ours)
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
    assert capfd.readouterr().err == "some text\nstill open\n"


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="<stdout> has no size to be limited"):
        LockedLogWriter(sys.stdout, max_bytes=5)
    with pytest.raises(TypeError, match="StringIO"):
        LockedLogWriter(io.StringIO())


def test_stream_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(io.UnsupportedOperation):
        LockedLogWriter(sys.stdout)


def test_lock_takes_the_place_of_the_consoles(capfd: pytest.CaptureFixture[str]) -> None:
    lock = Lock()
    with LockedLogWriter(sys.stdout, lock=lock) as log:
        log.write("x\n")
        assert lock.acquire(block=False)
        lock.release()
    assert capfd.readouterr().out == "x\n"
