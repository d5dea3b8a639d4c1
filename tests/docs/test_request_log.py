"""The main job, as a user runs it; and the code in the README."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest

from helpers import ONE_METHOD, wait_until

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "docs" / "examples" / "request_log.py"
COST = re.compile(r"request (.+) cost: \d+\.\d{6}")
FAILED = re.compile(r"request (.+) failed after \d+\.\d{6}: (\w+): .+")
SUMMARY = re.compile(
    r"(\d+) requests, (\d+) failed, [\d.]+ requests/s, median [\d.]+ s, 95th percentile [\d.]+ s\n"
    r"(for the reasons: .+\n)?"
)


# A fork server of Python 3.15 loads a program without a loader, and warns of that in each traceback.
WARNINGS = ["-W", "error", "-W", "ignore:Module globals is missing a __spec__:DeprecationWarning"]


def run(*arguments: str, directory: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *WARNINGS, str(PROGRAM), *arguments],
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


class Api(BaseHTTPRequestHandler):
    """Answers, refuses or drops a request, as the item says."""

    seen: ClassVar[list[str]]
    hold: ClassVar[threading.Event]

    def do_GET(self) -> None:
        item = urllib.parse.unquote(self.path.removeprefix("/api?q="))
        self.seen.append(item)
        if item.startswith("drop"):
            self.connection.shutdown(socket.SHUT_RDWR)
        elif item.startswith("error"):
            self.send_error(503)
        elif item.startswith("slow"):
            self.hold.wait()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[tuple[str, type[Api]]]:
    class ThisApi(Api):
        seen: ClassVar[list[str]] = []
        hold = threading.Event()

    with Server(("127.0.0.1", 0), ThisApi) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield f"http://127.0.0.1:{server.server_port}/api?q={{data}}", ThisApi
        ThisApi.hold.set()
        server.shutdown()


@pytest.mark.parametrize("manager", [[], ["--manager"]], ids=["locked", "manager"])
@pytest.mark.parametrize("method", ONE_METHOD)
def test_made_up_items(method: str, manager: list[str], tmp_path: Path) -> None:
    done = run("--start-method", method, "--workers", "4", *manager, directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary = SUMMARY.fullmatch(done.stdout)
    assert summary is not None
    assert summary.groups() == ("200", "0", None)
    costs = [COST.fullmatch(line) for line in (tmp_path / "request.log").read_text().splitlines()]
    assert sorted(cost[1] for cost in costs if cost) == sorted(f"item-{n}" for n in range(1, 201))


def test_server_that_refuses_and_drops(api: tuple[str, type[Api]], tmp_path: Path) -> None:
    url, handler = api
    items = ["plain", "with space/slash?&#%", "ümlaut", "drop-1", "error-1", "last"]
    source = tmp_path / "items"
    source.write_text("\n".join(items) + "\n\n", encoding="utf-8")
    done = run("--url", url, "--input", str(source), "--log", "my log", directory=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert sorted(handler.seen) == sorted(items)
    summary = SUMMARY.fullmatch(done.stdout)
    assert summary is not None
    assert summary.groups() == ("6", "2", "for the reasons: grep 'failed after' 'my log'\n")
    command = summary[3].partition(": ")[2]
    found = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.count("\n") == 2
    lines = (tmp_path / "my log").read_text(encoding="utf-8").splitlines()
    failed = {match[1]: match[2] for match in map(FAILED.fullmatch, lines) if match}
    assert failed == {"drop-1": "RemoteDisconnected", "error-1": "HTTPError"}
    answered = [match[1] for match in map(COST.fullmatch, lines) if match]
    assert sorted(answered) == sorted(set(items) - set(failed))


def test_items_from_standard_input_to_nobody(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{{data}}"
        done = run("--input", "-", "--url", url, "--workers", "2", directory=tmp_path, text="a\nb\n")
    assert done.returncode == 1
    assert "2 requests, 2 failed" in done.stdout
    assert (tmp_path / "request.log").read_text().count("URLError") == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--url", "http://x"], "--url must have {data} in it"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--log", "no/such/log"], "request_log.py: [Errno 2] No such file or directory"),
        (["--input", "nothing-here"], "request_log.py: [Errno 2] No such file or directory"),
        *[
            (["--timeout", wrong], "argument --timeout: must be more than 0 and at most 86400, not")
            for wrong in ("0", "-1", "nan", "inf", "1e10")
        ],
        (["--timeout", "soon"], "argument --timeout: invalid seconds value: 'soon'"),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str, tmp_path: Path) -> None:
    done = run(*arguments, directory=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_every_option_has_a_help_text(tmp_path: Path) -> None:
    done = run("--help", directory=tmp_path)
    options = re.findall(r"^  (-.+(?:\n {6,}.+)*)", done.stdout, re.MULTILINE)
    assert len(options) > 7
    for option in options:
        assert len(re.split(r"\s{2,}", option)) > 1, option


@pytest.mark.parametrize("manager", [[], ["--manager"]], ids=["locked", "manager"])
@pytest.mark.parametrize("method", ONE_METHOD)
@pytest.mark.parametrize("url", [[], ["--url", "http://127.0.0.1:1/{data}"]], ids=["answered", "refused"])
def test_log_that_cannot_be_written(method: str, manager: list[str], url: list[str], tmp_path: Path) -> None:
    """That is no failure of a request, and ends the job; though requests fail as well."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = run("--log", "/dev/full", "--start-method", method, *manager, *url, directory=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "request_log.py: /dev/full cannot be written: OSError: [Errno 28] No space left on device\n"
    )


def test_disk_that_becomes_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount one")
    try:
        done = run("--log", "disk/log", directory=tmp_path)
        # The job ends with the first error, other workers perhaps before they removed what a record has left.
        *lines, _cut = (disk / "log").read_text().split("\n")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert "disk/log cannot be written: OSError: [Errno 28] No space left on device\n" in done.stderr
    assert len(lines) > 50
    assert [line for line in lines if not COST.fullmatch(line)] == []


def test_two_runs_can_be_told_apart(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("--input", "-", "--stamp", directory=tmp_path, text="a\nb\n").returncode == 0
    lines = [line.split(" ", 2) for line in (tmp_path / "request.log").read_text().splitlines()]
    assert all(COST.fullmatch(text) and pid.isdecimal() for _, pid, text in lines)
    assert {pid for _, pid, _ in lines[:2]}.isdisjoint(pid for _, pid, _ in lines[2:])


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX")
@pytest.mark.parametrize("tqdm", [True, False])
def test_terminal_shows_how_far_the_job_is(tqdm: bool, tmp_path: Path) -> None:  # noqa: FBT001 - pytest's
    if not tqdm:
        (tmp_path / "tqdm.py").write_text("raise ImportError")
    import fcntl  # noqa: PLC0415 - not on Windows
    import termios  # noqa: PLC0415 - not on Windows

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, *WARNINGS, str(PROGRAM)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 1 << 16):
                shown += data
        except OSError:  # the program has ended
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    if not tqdm:
        counts = re.findall(r"\r(\d+) of 200 requests", shown.decode())
        assert counts == sorted(counts, key=int)
        assert counts[-1] == "200"
        assert len(counts) > 1
        assert shown.endswith(b"\r\n")
    elif find_spec("tqdm"):
        assert "200/200" in shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups and SIGINT are POSIX")
@pytest.mark.parametrize("manager", [[], ["--manager"]], ids=["locked", "manager"])
def test_ctrl_c(method: str, manager: list[str], api: tuple[str, type[Api]], tmp_path: Path) -> None:
    url, handler = api
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "--url", url, "--input", "-", "--start-method", method, *manager],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write("".join(f"slow-{number}\n" for number in range(20)))
        process.stdin.close()
        wait_until(lambda: len(handler.seen) == 8)  # every worker is in a request that does not end
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert process.returncode == 130
    wait_until(lambda: not group_exists(process.pid))


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("method", ONE_METHOD)
def test_code_of_the_readme(method: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text(block)
    done = run_with(program, method, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"request {x}: {x.upper()}" for x in "abc"]


def run_with(program: Path, method: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as it is, with another default start method."""
    (directory / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
