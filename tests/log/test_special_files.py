"""A LockedLogWriter on what is no regular file: a pipe, a socket, a terminal, a device."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from helpers import bytes_in_pipe, wait_until
from poollock import LockedLogHandler, LockedLogWriter, LockedPool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def reader(fifo: Path) -> Iterator[int]:
    """A descriptor to read the FIFO from."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    yield fd
    os.close(fd)


def read_all(reader: int) -> str:
    data = b""
    while part := os.read(reader, 1 << 16):
        data += part
    return data.decode()


def test_reader_of_a_fifo_ends(fifo: Path) -> None:
    """As with `open`: the writer is not its own reader, and does not wait for ever."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with LockedLogWriter(fifo) as log, LockedLogWriter(fifo) as other:
        log.write("1\n")
        assert os.read(reader, 100) == b"1\n"
        os.close(reader)
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                log.write("2\n")
            with pytest.raises(BrokenPipeError):  # which nobody keeps the lock from
                other.write("x" * 100_000 + "\n")
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        log.write("3\n")
        assert os.read(reader, 100) == b"3\n"
        os.close(reader)


def test_reader_of_a_fifo_ends_while_a_record_waits(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def end_when_full() -> None:
        wait_until(lambda: bytes_in_pipe(reader) > 60_000)
        os.close(reader)

    with LockedLogWriter(fifo) as log:
        thread = threading.Thread(target=end_when_full)
        thread.start()
        with pytest.raises(BrokenPipeError):
            log.write("x" * 100_000 + "\n")
        thread.join()


def test_fifo_without_a_reader(fifo: Path) -> None:
    """To open it waits for one, as `open` does."""
    made: list[LockedLogWriter] = []
    thread = threading.Thread(target=lambda: made.append(LockedLogWriter(fifo)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    with fifo.open() as reader:
        thread.join()
        made[0].write("1\n")
        made[0].close()
        assert reader.read() == "1\n"


def test_program_whose_output_goes_to_head(method: str, tmp_path: Path) -> None:
    """In its workers too."""
    program = tmp_path / "program.py"
    program.write_text("""if True:
        import sys, poollock
        def work(log, number):
            for _ in range(1000):
                log.write("x" * 100 + "\\n")
        if __name__ == "__main__":
            log = poollock.LockedLogWriter("/dev/stdout")
            with poollock.locked_pool(2, context=sys.argv[1]) as pool:
                try:
                    pool.starmap(work, [(log, number) for number in range(4)])
                except BrokenPipeError:
                    sys.exit(7)
    """)
    with subprocess.Popen([sys.executable, str(program), method], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 7


def test_many_processes_write_to_a_fifo(
    factory: Callable[..., LockedPool], method: str, fifo: Path, reader: int
) -> None:
    """More than a pipe can hold, at once."""
    with factory(4, context=method) as pool, LockedLogWriter(fifo) as log:
        job = pool.starmap_async(tasks.write_long_records, [(log, writer) for writer in range(8)], 1)
        lines = b""
        while lines.count(b"\n") < 40:
            lines += os.read(reader, 1 << 16)
        job.get()
    records = [tasks.long_record(writer, number) for writer in range(8) for number in range(5)]
    assert sorted(lines.decode().splitlines()) == sorted(records)


def test_signal_handler_that_writes_while_a_fifo_has_taken_a_part_of_a_record(fifo: Path) -> None:
    """Its record comes after the other one, whole."""
    program = """if True:
        import signal, sys, poollock
        log = poollock.LockedLogWriter(sys.argv[1])
        again = poollock.LockedLogWriter(sys.argv[1])
        def handler(*_):
            log.write("inner\\n")
            again.write("again\\n")
        signal.signal(signal.SIGUSR1, handler)
        log.write("x" * 200_000 + "\\n")
        log.write("last\\n")
    """
    with subprocess.Popen([sys.executable, "-c", program, str(fifo)]) as process, fifo.open("rb") as reader:
        wait_until(lambda: bytes_in_pipe(reader.fileno()) >= 65536 or process.poll() is not None)
        process.send_signal(signal.SIGUSR1)
        assert reader.read().decode().split() == ["x" * 200_000, "inner", "again", "last"]


def test_fifo_never_rotates(fifo: Path, reader: int) -> None:
    with LockedLogWriter(fifo, max_bytes=5, backup_count=2) as log:
        for _ in range(3):
            log.write("longer than that\n")
    assert read_all(reader) == "longer than that\n" * 3
    assert list(fifo.parent.iterdir()) == [fifo]


def test_fifo_that_is_made_anew_is_followed(fifo: Path, reader: int) -> None:
    with LockedLogWriter(fifo) as log:
        log.write("1\n")
        fifo.unlink()
        os.mkfifo(fifo)
        again = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        log.write("2\n")
        assert os.read(again, 100) == b"2\n"
        fifo.unlink()
        log.write("3\n")  # to a file, now
        assert fifo.read_text() == "3\n"
        os.close(again)
    assert read_all(reader) == "1\n"


def test_fsync(fifo: Path, reader: int) -> None:
    for path in (fifo, "/dev/null"):
        with pytest.raises(OSError, match="fsync is for files") as info:
            LockedLogWriter(path, fsync=True)
        assert info.value.errno == errno.EINVAL


def test_full_device() -> None:
    with LockedLogWriter("/dev/full") as log:
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                log.write("x\n")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), log.timed("x"):
            pass


def test_null_device() -> None:
    with LockedLogWriter("/dev/null", max_bytes=1, backup_count=1) as log:
        log.write("x\n")
        pickle.loads(pickle.dumps(log)).write("y\n")
        process = multiprocessing.get_context("fork").Process(target=log.write, args=("z\n",))
        process.start()
        process.join()
    assert process.exitcode == 0


def test_terminal() -> None:
    ours, theirs = os.openpty()
    with LockedLogWriter(os.ttyname(theirs)) as log, LockedLogWriter(os.ttyname(theirs)) as other:
        log.write("1\n")
        other.write("2\n")
        text = os.read(ours, 100)
        while text.count(b"\n") < 2:
            text += os.read(ours, 100)
    assert text == b"1\r\n2\r\n"
    os.close(ours)
    os.close(theirs)


def test_socket(tmp_path: Path) -> None:
    """Refused as `open` does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device") as expected:
            (tmp_path / "socket").open("a")
        with pytest.raises(OSError, match="No such device") as info:
            LockedLogWriter(tmp_path / "socket")
    assert (info.value.errno, info.value.filename) == (expected.value.errno, expected.value.filename)


@pytest.mark.parametrize("name", ["/dev/stdout", "sys.stdout"])
def test_socket_as_the_console(name: str) -> None:
    """As systemd has it."""
    ours, theirs = socket.socketpair()
    target = "sys.stdout" if name == "sys.stdout" else repr(name)
    code = f"import sys, poollock; poollock.LockedLogWriter({target}).write('x\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=theirs.fileno(), stderr=subprocess.PIPE, text=True, check=False
    )
    theirs.close()
    if name == "sys.stdout":
        assert (done.returncode, done.stderr) == (0, "")
        assert ours.recv(100) == b"x\n"
    else:
        assert "OSError: [Errno 6] No such device or address: '/dev/stdout'" in done.stderr
    ours.close()


def test_handler(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error is handled as logging does, and the next record is not kept from its pipe."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    handler = LockedLogHandler(fifo, maxBytes=5, backupCount=1)
    handled: list[Any] = []

    def handle(_: logging.LogRecord) -> None:
        handled.append(sys.exc_info()[0])

    monkeypatch.setattr(handler, "handleError", handle)
    logger = logging.Logger("test")  # noqa: LOG001 - for this test alone
    logger.addHandler(handler)
    logger.warning("1")
    assert os.read(reader, 100) == b"1\n"
    os.close(reader)
    logger.warning("2")
    assert handled == [BrokenPipeError]
    handler.close()
