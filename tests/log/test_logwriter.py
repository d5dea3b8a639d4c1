"""LockedLogWriter: whole records, whoever writes, from wherever."""

from __future__ import annotations

import _thread
import contextlib
import csv
import errno
import gc
import inspect
import io
import json
import multiprocessing
import os
import pickle
import pydoc
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter, UserString
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import tasks
from helpers import environment, needs_fork, needs_posix, removes_open_files, signalled_inside, wait_until
from poollock import Lock, LockedLogWriter, LockedPool, LockTimeoutError
from poollock._backend.flock import LOCK_EX, LOCK_NB, LOCK_UN, flock
from poollock._log import sink
from poollock._log.log_file import LogFile
from poollock._log.sink import Sink


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def check_records(path: Path, writers: int, count: int) -> None:
    """Every record is there once, and whole."""
    seen: set[tuple[int, int]] = set()
    lines = path.read_text().split("\n")
    assert lines.pop() == ""
    for line in lines:
        text, _, length = line.rpartition(":")
        assert len(text) == int(length)
        writer, number, _ = text.split(":")
        seen.add((int(writer), int(number)))
    assert len(lines) == writers * count
    assert seen == {(writer, number) for writer in range(writers) for number in range(count)}


def test_many_processes(factory: Callable[..., LockedPool], method: str, path: Path) -> None:
    with factory(4, context=method) as pool, LockedLogWriter(path, lock=pool.lock) as log:
        pool.starmap(tasks.write_records, [(log, writer, 150) for writer in range(8)], chunksize=1)
    check_records(path, 8, 150)


def test_processes_that_each_open_the_file(path: Path) -> None:
    program = """if True:
        import sys, tasks, poollock
        tasks.write_records(poollock.LockedLogWriter(sys.argv[1]), int(sys.argv[2]), 300)
    """
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(number)], env=environment())
        for number in range(4)
    ]
    assert [process.wait() for process in started] == [0] * 4
    check_records(path, 4, 300)


def test_threads_of_one_process(path: Path) -> None:
    with LockedLogWriter(path) as log:
        tasks.write_from_threads(log, 300)
    check_records(path, 4, 300)


def test_thread_waits_for_another_that_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    threads: list[threading.Thread] = []

    def write(fd: int, data: bytes) -> int:
        if not threads:
            threads.append(threading.Thread(target=log.write, args=("second\n",)))
            threads[0].start()
            threads[0].join(0.1)
            assert threads[0].is_alive()
        return real_write(fd, data)

    with LockedLogWriter(path) as log:
        monkeypatch.setattr("poollock._log.log_file.write", write)
        first = threading.Thread(target=log.write, args=("first\n",))
        first.start()
        first.join()
        threads[0].join()
    assert path.read_text() == "first\nsecond\n"


@needs_fork
def test_forked_child_does_not_share_the_lock_nor_the_unfinished_line(path: Path) -> None:
    """``flock`` belongs to the open file description, which fork shares."""
    with LockedLogWriter(path) as log:
        log.write("parent's ")
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=tasks.write_records, args=(log, n, 300)) for n in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        log.write("line\n")
    lines = path.read_text().splitlines()
    assert lines.pop() == "parent's line"
    path.write_text("".join(f"{line}\n" for line in lines))
    check_records(path, 4, 300)


def test_process_that_ends_in_the_middle_of_a_line(path: Path, method: str) -> None:
    with LockedLogWriter(path) as log:
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=tasks.print_a_part, args=(log,))
        process.start()
        process.join()
        assert path.read_text() == "a part\n"


@needs_posix
def test_waits_for_whoever_has_the_file(path: Path) -> None:
    import fcntl  # noqa: PLC0415 - not on Windows

    with LockedLogWriter(path) as log, path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=log.write, args=("late\n",))
        thread.start()
        wait_until(lambda: not thread.is_alive() or is_waited_for(other.fileno()))
        assert thread.is_alive()
        assert other.read() == ""
        fcntl.flock(other, fcntl.LOCK_UN)
        thread.join()
        assert other.read() == "late\n"


def is_waited_for(fd: int) -> bool:
    inode = f":{os.fstat(fd).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


@removes_open_files
def test_file_is_free_after_a_write_that_failed(path: Path) -> None:
    with LockedLogWriter(path) as log, path.open() as other:
        path.unlink()
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            log.write("x\n")
        flock(other.fileno(), LOCK_EX | LOCK_NB)


@needs_posix
def test_disk_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with LockedLogWriter("/dev/full") as log, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        log.write("x\n")


def test_subclass_that_has_another_name(path: Path) -> None:
    class Audit(LockedLogWriter):
        name: Any = "audit"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType] # what if?

    with Audit(path) as log:
        log.write("x\n")
    assert path.read_text() == "x\n"


def test_behaves_as_a_text_stream(path: Path) -> None:
    with LockedLogWriter(path) as log:
        assert isinstance(log, io.TextIOBase)
        assert (log.name, log.encoding, log.writable(), log.readable()) == (str(path), "utf-8", True, False)
        assert log.fileno() > 2
        assert log.write("äö\n") == 3
        print("a", 1, None, file=log, flush=True)
        csv.writer(log, lineterminator="\n").writerow(["x", "y z", 3])
        json.dump({"k": [1, 2]}, log)
        log.write("\n")
        log.writelines(["one\n", "two", "\n"])
        log.write("")
        with pytest.raises(io.UnsupportedOperation):
            log.read()
        assert repr(log) == f"<LockedLogWriter {str(path)!r}>"
    assert repr(log) == f"<LockedLogWriter {str(path)!r} closed>"
    assert path.read_text(encoding="utf-8") == 'äö\na 1 None\nx,y z,3\n{"k": [1, 2]}\none\ntwo\n'


@pytest.mark.parametrize("options", [{}, {"newline": "\r\n"}, {"encoding": "latin-1"}])
@pytest.mark.parametrize("text", [5, 0, b"x\n", b"x", ["\n"], {-1: "\n"}, UserString("x\n")], ids=repr)
def test_what_is_no_str(path: Path, options: dict[str, str], text: Any) -> None:
    with (
        LockedLogWriter(path, **options) as log,  # type: ignore[arg-type] # of several types
        Path(os.devnull).open("w") as file,
    ):
        with pytest.raises(TypeError) as expected:
            file.write(text)
        with pytest.raises(TypeError) as info:
            log.write(text)
        log.write("next\n")
    assert str(info.value) == str(expected.value)
    assert path.read_text().split() == ["next"]


def test_signature() -> None:
    """What help(), IPython and an editor show."""
    parameters = inspect.signature(LockedLogWriter).parameters
    assert list(parameters) == [
        "path", "lock", "encoding", "errors", "newline", "max_bytes", "backup_count", "fsync"
    ]  # fmt: skip
    assert parameters["max_bytes"].default == 0
    text = pydoc.plain(pydoc.render_doc(LockedLogWriter))
    assert re.search(r"LockedLogWriter\([\s|]*path", text)  # from Python 3.14 on, on a line of its own


@pytest.mark.parametrize("arguments", [(), ("a", "b"), (3,)])
def test_writer_that_was_not_made_is_closed_silently(arguments: tuple[Any, ...]) -> None:
    """By ``__del__``: pytest makes an error of what that raises."""
    with pytest.raises(TypeError):
        LockedLogWriter(*arguments)
    with pytest.raises(LookupError):
        LockedLogWriter("log", encoding="no-such-code")
    gc.collect()


def test_line_in_pieces_waits_for_its_end(path: Path) -> None:
    with LockedLogWriter(path) as log:
        log.write("first\n")
        log.write("sec")
        log.flush()
        assert path.read_text() == "first\n"
        thread = threading.Thread(target=log.write, args=("other thread\n",))
        thread.start()
        thread.join()
        log.write("ond\nunfin")
        assert path.read_text() == "first\nother thread\n"  # it may be the beginning of one record
        log.write("ished\n")
        assert path.read_text() == "first\nother thread\nsecond\nunfinished\n"
        log.write("unfinished")
    assert path.read_text() == "first\nother thread\nsecond\nunfinished\nunfinished\n"


def test_text_of_several_lines_is_one_record(path: Path) -> None:
    """In one write, in one `writelines`, and in a `print`, which ends it with another write."""
    with LockedLogWriter(path) as log, LockedLogWriter(path) as other:
        print("1\n2", file=log, end="")
        other.write("between\n")
        print("\n3", file=log)
        log.writelines(["4\n", "5\n", "6"])
        other.write("between\n")
        log.write("\n")
    assert path.read_text().split() == ["between", "1", "2", "3", "between", "4", "5", "6"]


def test_traceback_in_one_piece(path: Path) -> None:
    with LockedLogWriter(path) as log:
        try:
            int("x")
        except ValueError:
            traceback.print_exc(file=log)
            log.write(traceback.format_exc())
    whole = path.read_text()
    assert whole[: len(whole) // 2] == whole[len(whole) // 2 :]
    assert whole.endswith("with base 10: 'x'\n")


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
def test_newlines_are_those_of_a_text_file(path: Path, tmp_path: Path, newline: str | None) -> None:
    with (
        LockedLogWriter(path, newline=newline) as log,
        (tmp_path / "file").open("w", newline=newline) as file,
    ):
        for text in ("one\n", "two\nthree\r\n", "un", "finished", "\n"):
            assert log.write(text) == file.write(text)
        csv.writer(log).writerow([1, 2])
        csv.writer(file).writerow([1, 2])
    assert path.read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("errors", ["replace", "backslashreplace", "surrogateescape", "ignore"])
def test_what_cannot_be_encoded_is_that_of_a_text_file(path: Path, tmp_path: Path, errors: str) -> None:
    with (
        LockedLogWriter(path, encoding="ascii", errors=errors) as log,
        (tmp_path / "file").open("w", encoding="ascii", errors=errors) as file,
    ):
        assert log.errors == errors
        for text in ("a\udcff\n", "b", "\udcfe", "\n") + ("é\n",) * (errors != "surrogateescape"):
            log.write(text)
            file.write(text)
    assert path.read_bytes() == (tmp_path / "file").read_bytes()


def test_wrong_piece_does_not_spoil_the_next_record(path: Path) -> None:
    with LockedLogWriter(path) as log:
        with pytest.raises(UnicodeEncodeError):
            log.write("\ud800")
        print("next", file=log)
    assert path.read_text() == "next\n"


def test_wrong_options(path: Path) -> None:
    for options, error in [
        ({"max_bytes": -1}, "max_bytes must not be negative: -1"),
        ({"backup_count": 1.5}, "backup_count must be an int, not 1.5"),
        ({"newline": "x"}, "newline must be None, .* not 'x'"),
        ({"lock": 3}, "lock must be a lock or None, not 3"),
        ({"errors": "no-such"}, "unknown error handler name 'no-such'"),
    ]:
        with pytest.raises((TypeError, ValueError, LookupError), match=error):
            LockedLogWriter(path, **options)  # type: ignore[arg-type] # of several types
    assert not path.exists()


def test_appends_and_keeps_open_files_apart(path: Path) -> None:
    path.write_text("before\n")
    with LockedLogWriter(path) as one, LockedLogWriter(str(path)) as two:
        one.write("1\n")
        two.write("2\n")
        one.write("3\n")
    assert path.read_text() == "before\n1\n2\n3\n"


def test_closed(path: Path) -> None:
    log = LockedLogWriter(path)
    log.close()
    log.close()
    for use in (
        lambda: log.write("x\n"),
        lambda: log.writelines(["x\n"]),
        log.fileno,
        lambda: pickle.dumps(log),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert path.read_text() == ""


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LockedLogWriter(tmp_path / "no" / "log")
    with pytest.raises((IsADirectoryError, PermissionError)):  # the second on Windows, as with open()
        LockedLogWriter(tmp_path)
    with pytest.raises(LookupError, match="no-such-code"):
        LockedLogWriter(tmp_path / "log", encoding="no-such-code")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError):
        LockedLogWriter(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_encoding(path: Path) -> None:
    with LockedLogWriter(path, encoding="latin-1") as log:
        log.write("ä\n")
        with pytest.raises(UnicodeEncodeError):
            log.write("€\n")
        pickle.loads(pickle.dumps(log)).write("ö\n")
    assert path.read_bytes() == f"ä{os.linesep}ö{os.linesep}".encode("latin-1")


def test_encoding_that_failed_leaves_the_line_as_it_was(path: Path) -> None:
    with LockedLogWriter(path, encoding="ascii") as log:
        log.write("status: ")
        with pytest.raises(UnicodeEncodeError):
            log.write("ä\n")
        log.write("ok\n")
    assert path.read_text() == "status: ok\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_encoding_with_a_mark(path: Path, encoding: str) -> None:
    with pytest.raises(ValueError, match="byte order mark"):
        LockedLogWriter(path, encoding=encoding)


def test_signal_handler_that_writes_in_the_middle_of_a_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if b"outer" in data:
            signal.raise_signal(signal.SIGINT)
            with path.open() as other, pytest.raises(BlockingIOError):  # the outer write has the lock still
                flock(other.fileno(), LOCK_EX | LOCK_NB)
        return real_write(fd, data)

    def handler(*_: object) -> None:
        log.write("inner\n")
        assert path.read_text() == "inner\n"  # at once, and not when the other one is done

    with LockedLogWriter(path) as log:
        before = signal.signal(signal.SIGINT, handler)
        try:
            monkeypatch.setattr("poollock._log.log_file.write", write)
            log.write("outer\n")
        finally:
            signal.signal(signal.SIGINT, before)
    assert path.read_text() == "inner\nouter\n"


@pytest.mark.parametrize("where", ["the same log", "another log of the file", "a log with a lock"])
def test_write_from_a_handler_at_each_step_of_a_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    count = steps = 0
    lock = Lock() if where == "a log with a lock" else None
    log = LockedLogWriter(path, lock=lock)
    inner = LockedLogWriter(path) if where == "another log of the file" else log
    wanted = Counter({"outer": 0, "inner": 0, "inmost": 0})
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if b"inner" in data:
            wanted["inmost"] += 1
            log.write("inmost\n")  # as a finalizer may
        return real_write(fd, data)

    def step(frame: FrameType, _event: str, _arg: Any) -> Any:
        nonlocal steps
        if frame.f_code in (Sink.append.__code__, LogFile._append.__code__):
            frame.f_trace_opcodes = True
            steps += 1
            if steps == count:
                sys.settrace(None)
                wanted["inner"] += 1
                inner.write("inner\n")
                assert path.read_text().count("inner\n") == wanted["inner"]  # at once
                return None
        return step

    before = sys.gettrace()
    monkeypatch.setattr("poollock._log.log_file.write", write)
    with log, inner, path.open() as other:
        sys._getframe().f_trace_opcodes = True  # 3.12 asks for these when tracing starts
        while count <= steps:
            count, steps = count + 1, 0
            wanted["outer"] += 1
            sys.settrace(step)
            try:
                log.write("outer\n")
            finally:
                sys.settrace(before)
            assert Counter(path.read_text().split()) == +wanted, f"at step {count}"
            flock(other.fileno(), LOCK_EX | LOCK_NB)  # it is free
            flock(other.fileno(), LOCK_UN)
            assert lock is None or not lock.locked()
            others = threading.Thread(target=log.write, args=("outer\n",))
            others.start()
            others.join()
            wanted["outer"] += 1
    assert count > 50


@pytest.mark.parametrize("make_lock", [lambda: None, Lock], ids=["alone", "with a lock"])
def test_interrupt_after_each_call_in_a_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, make_lock: Callable[[], Lock | None]
) -> None:
    """A signal handler may raise there: the record is there whole or not at all, and no lock stays taken."""
    count = calls = wanted = 0
    lock = make_lock()
    real_write = os.write

    def look_and_write(fd: int, data: bytes) -> int:
        with path.open() as other, pytest.raises(BlockingIOError):
            flock(other.fileno(), LOCK_EX | LOCK_NB)
        assert lock is None or lock.locked()
        return real_write(fd, data)

    def interrupt(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        if event == "c_return" and frame.f_code in (Sink.append.__code__, LogFile._append.__code__):
            calls += 1
            if calls == count:
                sys.setprofile(None)
                raise KeyboardInterrupt

    with LockedLogWriter(path, lock=lock) as log:
        while count <= calls:
            count, calls = count + 1, 0
            size = path.stat().st_size
            sys.setprofile(interrupt)
            try:
                log.write("outer\n")
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(None)
            wanted += path.stat().st_size > size
            with monkeypatch.context() as patched:
                patched.setattr("poollock._log.log_file.write", look_and_write)
                log.write("next\n")
                thread = threading.Thread(target=log.write, args=("thread\n",))
                thread.start()
                thread.join()
            assert Counter(path.read_text().split()) == +Counter(outer=wanted, next=count, thread=count)
            assert lock is None or not lock.locked()
    assert count > 5
    assert 0 < wanted < count


@needs_posix
@pytest.mark.parametrize("awaited", ["the file", "the lock", "another thread"])
def test_handler_writes_and_raises_while_a_record_waits(path: Path, awaited: str) -> None:
    """What the handler has written is there at once, and nothing stays locked."""
    import fcntl  # noqa: PLC0415 - not on Windows

    def handler(*_: object) -> None:
        log.write("inner\n")
        assert path.read_text() == "inner\n"
        raise TimeoutError

    lock = Lock() if awaited == "the lock" else None
    threads: list[threading.Thread] = []

    def write_in_thread(text: str) -> None:
        threads.append(threading.Thread(target=log.write, args=(text,)))
        threads[-1].start()

    with LockedLogWriter(path, lock=lock) as log, path.open() as other, contextlib.ExitStack() as held:
        if lock is not None:
            held.enter_context(lock)
        else:
            fcntl.flock(other, fcntl.LOCK_EX)
        if awaited == "another thread":
            write_in_thread("first\n")
            wait_until(lambda: is_waited_for(other.fileno()))
        # Before it is in the record, a handler that writes waits as well.
        progress = sink.threads.progress
        with signalled_inside(handler, lambda: progress.depth == 1), pytest.raises(TimeoutError):
            log.write("outer\n")
        held.close()
        fcntl.flock(other, fcntl.LOCK_UN)
        write_in_thread("next\n")
        for thread in threads:
            thread.join()
    assert path.read_text().split() == ["inner", *["first"] * (awaited == "another thread"), "next"]


@needs_fork
def test_child_that_is_forked_while_another_thread_writes(path: Path) -> None:
    """It has no part in what that thread holds, and none of its own records is written without a lock."""
    import fcntl  # noqa: PLC0415 - not on Windows

    with LockedLogWriter(path) as log, path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=log.write, args=("parent\n",))
        thread.start()
        wait_until(lambda: is_waited_for(other.fileno()))
        child = multiprocessing.get_context("fork").Process(target=log.write, args=("child\n",))
        child.start()
        fcntl.flock(other, fcntl.LOCK_UN)
        child.join()
        thread.join()
    assert child.exitcode == 0
    assert sorted(path.read_text().split()) == ["child", "parent"]


@needs_fork
def test_child_that_is_forked_in_the_middle_of_a_record_waits_for_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    children: list[Any] = []

    def write(fd: int, data: bytes) -> int:
        if not children:
            children.append(multiprocessing.get_context("fork").Process(target=log.write, args=("child\n",)))
            children[0].start()
            wait_until(lambda: not children[0].is_alive() or is_waited_for(fd))
        return real_write(fd, data)

    with LockedLogWriter(path) as log:
        monkeypatch.setattr("poollock._log.log_file.write", write)
        log.write("parent\n")
        children[0].join()
    assert path.read_text() == "parent\nchild\n"


def test_threads_that_open_the_file_together_share_it(path: Path) -> None:
    writer = LockedLogWriter(path)
    log: LockedLogWriter = pickle.loads(pickle.dumps(writer))  # not open yet
    barrier = threading.Barrier(8)
    descriptors: set[int] = set()

    def use() -> None:
        barrier.wait()
        descriptors.add(log.fileno())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(descriptors) == 1
    log.close()
    writer.close()


def test_line_of_a_thread_that_ended_stays_its_own(path: Path) -> None:
    with LockedLogWriter(path) as log:
        for text in ("cut", "whole\n"):
            thread = threading.Thread(target=log.write, args=(text,))
            thread.start()
            thread.join()
    assert path.read_text() == "whole\ncut\n"


def test_relative_path_is_that_of_the_maker(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with LockedLogWriter("log") as log:
        data = pickle.dumps(log)
        monkeypatch.chdir("/")
        with pickle.loads(data) as again:
            again.write("here\n")
    assert path.read_text() == "here\n"


def test_lock_is_held_during_a_write(path: Path) -> None:
    lock = Lock()
    with LockedLogWriter(path, lock=lock) as log, lock:
        thread = threading.Thread(target=log.write, args=("x\n",))
        thread.start()
        with pytest.raises(LockTimeoutError), lock.hold(0.01):
            pass
        assert path.read_text() == ""
        lock.release()
        thread.join()
        assert path.read_text() == "x\n"
        lock.acquire()


def test_timed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr("poollock._log.timer.time.monotonic", lambda: next(clock))
    with LockedLogWriter(path) as log:
        with log.timed("request a") as timer:
            assert timer.seconds == 0.0
        assert (timer.seconds, timer.log_error) == (0.25, None)
        log.write("unfinished")
        failed = log.timed("request b\nc")
        with pytest.raises(KeyError), failed:
            raise KeyError("no\nkey")
        assert failed.seconds == 0.5
    assert path.read_text().splitlines() == [
        "request a cost: 0.250000",
        "request b c failed after 0.500000: KeyError: 'no\\nkey'",
        "unfinished",
    ]


@needs_fork
def test_timed_says_when_and_where(path: Path) -> None:
    """So that the lines of two runs, and of two workers, can be told apart."""
    before = datetime.now().astimezone()
    with LockedLogWriter(path) as log:
        with log.timed("request a", stamp=True):
            pass
        with pytest.raises(KeyError), log.timed("request b", stamp=True):
            raise KeyError("x")
        child = multiprocessing.get_context("fork").Process(target=write_timed, args=(log,))
        child.start()
        child.join()
    after = datetime.now().astimezone()
    lines = [line.split(" ", 2) for line in path.read_text().splitlines()]
    assert [int(pid) for _, pid, _ in lines] == [os.getpid(), os.getpid(), child.pid]
    for time, _, _ in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", time)
        assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(time) <= after
    texts = [re.sub(r"\d\.\d{6}", "S", text) for _, _, text in lines]
    assert texts == ["request a cost: S", "request b failed after S: KeyError: 'x'", "request c cost: S"]


def write_timed(log: LockedLogWriter) -> None:
    with log.timed("request c", stamp=True):
        pass


@removes_open_files
def test_timed_block_raises_its_own_error(path: Path) -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class InterruptedInTheMiddleError(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with LockedLogWriter(path) as log:
        with pytest.raises(UnspeakableError), log.timed("a"):
            raise UnspeakableError
        with pytest.raises(ValueError, match="\ud800"), log.timed("b"):
            raise ValueError("\ud800")
        with pytest.raises(KeyboardInterrupt), log.timed("the signal comes while the error is shown"):
            raise InterruptedInTheMiddleError
        path.unlink()
        path.mkdir()
        for error in (KeyboardInterrupt, KeyError):
            with pytest.raises(error), (timer := log.timed("c")):
                raise error
            assert timer.log_error == f"IsADirectoryError: [Errno 21] Is a directory: {str(path)!r}"
        with pytest.raises(IsADirectoryError), (timer := log.timed("c")):
            pass
        assert timer.log_error
        path.rmdir()
    assert not path.exists()


def test_threads_that_threading_does_not_know(path: Path) -> None:
    locks = [_thread.allocate_lock() for _ in range(4)]

    def write(lock: Any) -> None:
        for _ in range(300):
            log.write("x" * 500 + "\n")
        lock.release()

    with LockedLogWriter(path) as log, path.open() as other:
        for lock in locks:
            lock.acquire()
            _thread.start_new_thread(write, (lock,))
        for lock in locks:
            lock.acquire()
        log.write("last\n")
        flock(other.fileno(), LOCK_EX | LOCK_NB)
    assert path.read_text() == ("x" * 500 + "\n") * 1200 + "last\n"


@needs_posix
def test_descriptors_do_not_pile_up(path: Path) -> None:
    with LockedLogWriter(path) as log, multiprocessing.get_context("spawn").Pool(1) as pool:
        counts = pool.map(count_descriptors, [log] * 20, chunksize=1)
        pool.close()
        pool.join()
    assert len(set(counts)) == 1


def count_descriptors(log: LockedLogWriter) -> int:
    log.write("x\n")
    return len(os.listdir("/proc/self/fd"))


def test_writer_of_a_subclass(path: Path) -> None:
    with Upper(path) as log:
        pickle.loads(pickle.dumps(log)).write("x\n")
    assert path.read_text() == "X\n"


class Upper(LockedLogWriter):
    def write(self, text: str, /) -> Any:
        return super().write(text.upper())
