"""The file under a LockedLogWriter: rotation, what other programs do to it, crashes, and faults."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import poollock._log.log_file
import tasks
from helpers import in_child, kill, needs_fork, needs_posix, open_files, removes_open_files, wait_until
from poollock import Lock, LockedLogWriter, LockedPool
from poollock._backend.flock import locked_directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def lines_of(path: Path) -> list[str]:
    """The lines of the log and of all that it was renamed to, from the oldest on."""
    files = sorted(path.parent.glob("log*"), key=lambda file: -int(file.suffix[1:] or 0))
    return [line for file in files for line in file.read_text().splitlines()]


# Rotation.


def test_rotates_before_the_record_that_would_not_fit(path: Path) -> None:
    with LockedLogWriter(path, max_bytes=10, backup_count=2, newline="\n") as log:
        for text in ("1234\n", "5678\n", "a\n", "long enough\n", "b\n"):
            log.write(text)
    assert path.read_text() == "b\n"
    assert path.with_suffix(".1").read_text() == "long enough\n"
    assert path.with_suffix(".2").read_text() == "a\n"
    assert len(list(path.parent.iterdir())) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="too many renames for Wine; tests/windows has fewer")
def test_many_processes_rotate(factory: Callable[..., LockedPool], method: str, path: Path) -> None:
    """Each record is there once, in order for each process, in files that are none too large."""
    with (
        factory(4, tasks.wait_for_rotations, context=method) as pool,
        LockedLogWriter(path, max_bytes=500, backup_count=1000) as log,
    ):
        pool.starmap(tasks.write_records, [(log, writer, 100) for writer in range(8)], chunksize=1)
    lines = lines_of(path)
    assert len(lines) == 800
    for writer in range(8):
        mine = [int(line.split(":")[1]) for line in lines if line.startswith(f"{writer}:")]
        assert mine == list(range(100))
    for file in path.parent.iterdir():
        assert file.stat().st_size <= 500 or file.read_text().count("\n") == 1


@pytest.mark.parametrize("options", [{"max_bytes": 4}, {"backup_count": 4}])
def test_without_size_or_without_backups_it_never_rotates(path: Path, options: dict[str, int]) -> None:
    with LockedLogWriter(path, **options) as log:  # type: ignore[arg-type] # of several types
        log.write("12345\n")
        log.write("6\n")
    assert path.read_text() == "12345\n6\n"
    assert list(path.parent.iterdir()) == [path]


@needs_fork
@pytest.mark.parametrize("steps", range(4))
def test_killed_between_the_steps_of_a_rotation(path: Path, steps: int) -> None:
    """The next writer finishes it, and nothing is lost."""
    with LockedLogWriter(path, max_bytes=2, backup_count=4) as log:
        for number in range(4):
            log.write(f"{number}\n")

        def rotate_and_die() -> None:
            done = 0
            replace = os.replace

            def replace_some(*names: str) -> None:
                nonlocal done
                if done == steps:
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1
                replace(*names)

            os.replace = replace_some  # type: ignore[assignment] # in a child, which ends
            log.write("lost\n")

        assert in_child(rotate_and_die) == -signal.SIGKILL
        log.write("4\n")
    assert lines_of(path) == ["0", "1", "2", "3", "4"]


@needs_fork
def test_killed_between_a_rotation_and_the_new_file(path: Path) -> None:
    with LockedLogWriter(path, max_bytes=2, backup_count=2) as log:
        log.write("0\n")
        log.write("1\n")

        def rotate_and_die() -> None:
            def die(*_: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            log.write("2\n")
            setattr(poollock._log.log_file, "create_like", die)  # noqa: B010 - it exports none
            log.write("lost\n")

        assert in_child(rotate_and_die) == -signal.SIGKILL
        assert not path.exists()
        log.write("3\n")
    assert lines_of(path) == ["1", "2", "3"]


def test_signal_handler_writes_in_the_middle_of_a_rotation(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def handler(*_: object) -> None:
        log.write("inner, long enough\n")
        with LockedLogWriter(path, max_bytes=10, backup_count=9) as other:
            other.write("other, long enough\n")

    def replace_and_signal(old: str, new: str) -> None:
        replace(old, new)
        monkeypatch.setattr(os, "replace", replace)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with LockedLogWriter(path, max_bytes=10, backup_count=9) as log:
            log.write("one\n")
            log.write("two\n")
            monkeypatch.setattr(os, "replace", replace_and_signal)
            log.write("outer, long enough\n")
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines_of(path) == ["one", "two", *(f"{name}, long enough" for name in ("inner", "other", "outer"))]


def test_signal_handler_closes_the_log_in_the_middle_of_a_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is closed then is soon the descriptor of another file."""
    write = os.write
    opened: list[int] = []

    def handler(*_: object) -> None:
        log.close()
        opened.append(os.open(path.parent / "other", os.O_RDWR | os.O_CREAT))

    def signal_and_write(fd: int, data: bytes) -> int:
        signal.raise_signal(signal.SIGINT)
        return write(fd, data)

    log = LockedLogWriter(path)
    before = signal.signal(signal.SIGINT, handler)
    try:
        monkeypatch.setattr("poollock._log.log_file.write", signal_and_write)
        log.write("one\n")
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(opened[0])
    assert path.read_text() == "one\n"
    assert (path.parent / "other").read_text() == ""
    with pytest.raises(ValueError, match="closed"):
        log.write("two\n")


def test_backup_that_is_another_name_of_the_file(path: Path) -> None:
    """rename(2) does nothing then."""
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        os.link(path, path.with_suffix(".1"))
        log.write("2\n")
    assert lines_of(path) == ["1", "2"]


@needs_posix
def test_somebody_keeps_the_lock_of_the_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the shell's ``flock DIRECTORY PROGRAM``: the file grows meanwhile, and one record waits."""
    import fcntl  # noqa: PLC0415 - not on Windows

    directory = os.open(path.parent, os.O_RDONLY)
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        fcntl.flock(directory, fcntl.LOCK_EX)
        log.write("2\n")
        monkeypatch.setattr("poollock._backend.flock.sleep", pytest.fail)
        log.write("3\n")
        assert path.read_text() == "1\n2\n3\n"
        os.close(directory)
        log.write("4\n")
    assert path.read_text() == "4\n"


ROTATE = """if True:
    import sys, poollock
    log = poollock.LockedLogWriter(sys.argv[1], max_bytes=10, backup_count=3)
    log.write("other\\n")
"""


@needs_fork
def test_process_that_is_forked_in_a_rotation_does_not_keep_its_lock(path: Path) -> None:
    receiver, sender = os.pipe()
    with locked_directory(str(path), 0):
        pid = os.fork()
        if not pid:
            os.close(sender)
            os.read(receiver, 1)
            os._exit(0)
    with locked_directory(str(path), 0) as locked:
        assert locked
    os.close(sender)
    os.waitpid(pid, 0)
    os.close(receiver)


def test_others_rename_and_fill_the_file_while_one_rotates(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second rotation must not begin beside the first: it would overwrite what that has renamed."""
    replace = os.replace
    others: list[Any] = []

    def replace_after_others(old: str, new: str) -> None:
        if not others:
            path.rename(path.parent / "moved")
            path.write_text("long enough\n")  # a writer would wait for this rotation
            others.append(subprocess.Popen([sys.executable, "-c", ROTATE, path]))
            others[0].wait()
        replace(old, new)

    with LockedLogWriter(path, max_bytes=10, backup_count=3) as log:
        log.write("12345678\n")
        log.write("abcdefgh\n")
        monkeypatch.setattr(os, "replace", replace_after_others)
        log.write("one\n")
    others[0].wait()
    monkeypatch.undo()
    found = [line for file in path.parent.iterdir() for line in file.read_text().splitlines()]
    assert sorted(found) == ["12345678", "abcdefgh", "long enough", "one", "other"]


def is_waited_for(path: Path) -> bool:
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


# What other programs do.


def test_follows_a_file_that_was_renamed(path: Path) -> None:
    with LockedLogWriter(path) as log:
        log.write("1\n")
        path.rename(path.with_suffix(".1"))
        log.write("2\n")
        assert path.read_text() == "2\n"
        path.rename(path.with_suffix(".0"))
        path.touch()
        log.write("3\n")
    assert path.read_text() == "3\n"
    assert path.with_suffix(".1").read_text() == "1\n"


@needs_fork
def test_lock_of_a_renamed_file_is_free_even_if_a_child_has_the_descriptor(path: Path) -> None:
    """A process that is forked at the wrong moment has it until it begins to run."""
    import fcntl  # noqa: PLC0415 - not on Windows

    with LockedLogWriter(path) as log, path.open() as first:
        file: Any = log._ensure_open()
        kept = os.dup(file._fd)
        path.rename(path.with_suffix(".1"))
        log.write("2\n")
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(kept)


@removes_open_files
def test_follows_a_file_that_was_removed(path: Path) -> None:
    with LockedLogWriter(path) as log:
        log.write("1\n")
        path.unlink()
        log.write("2\n")
    assert path.read_text() == "2\n"


def test_goes_on_after_copytruncate(path: Path) -> None:
    with LockedLogWriter(path) as log:
        log.write("a longer record\n")
        os.truncate(path, 0)
        log.write("2\n")
    assert path.read_text() == "2\n"


@needs_fork
def test_waits_for_the_lock_of_the_file_that_is_there_now(path: Path) -> None:
    """One that was renamed while a writer waited for it is not written to."""
    import fcntl  # noqa: PLC0415 - not on Windows

    with LockedLogWriter(path) as log, path.open() as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        process = multiprocessing.get_context("fork").Process(target=log.write, args=("2\n",))
        process.start()
        wait_until(lambda: is_waited_for(path))
        path.rename(path.with_suffix(".1"))
        fcntl.flock(first, fcntl.LOCK_UN)
        process.join()
    assert path.read_text() == "2\n"
    assert path.with_suffix(".1").read_text() == ""


# Crashes.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_record_cut_short_gets_a_line_of_its_own(path: Path, encoding: str) -> None:
    with LockedLogWriter(path, encoding=encoding, newline="\n") as log:
        log.write("1\n")
        with path.open("ab") as file:
            file.write("cut".encode(encoding) + b"\0" * (encoding != "utf-8"))
        log.write("2\n")
        log.write("3\n")
    assert path.read_bytes().decode(encoding).split("\n") == ["1", "cut", "2", "3", ""]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_record_cut_short_is_seen_again_after_a_write_that_failed(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> int:
        raise error

    with LockedLogWriter(path) as log:
        log.write("1\n")
        with path.open("a") as file:
            file.write("cut")
        with monkeypatch.context() as patched:
            patched.setattr("poollock._log.log_file.write", fail)
            with pytest.raises(type(error)):
                log.write("refused\n")
        log.write("2\n")
    assert path.read_text() == "1\ncut\n2\n"


@needs_fork
def test_child_is_alive_whose_parent_was_killed_in_the_middle_of_a_write(path: Path) -> None:
    """It must not keep the lock that it was forked with."""

    def fork_and_die() -> None:
        def fork_then_die(*_: object) -> int:
            child = os.fork()
            if child == 0:
                signal.pause()
            path.with_suffix(".child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        setattr(poollock._log.log_file, "write", fork_then_die)  # noqa: B010 - it exports none
        log.write("lost\n")

    with LockedLogWriter(path) as log:
        assert in_child(fork_and_die) == -signal.SIGKILL
        log.write("next\n")
    os.kill(int(path.with_suffix(".child").read_text()), signal.SIGKILL)
    assert path.read_text() == "next\n"


@needs_fork
def test_process_killed_in_the_middle_of_a_record(path: Path) -> None:
    """The kernel stops a write of many megabytes when its process is killed."""
    text = f"{'x' * 50_000_000}\n"
    with LockedLogWriter(path) as log:
        log.write("first\n")
        for _ in range(20):
            size = path.stat().st_size
            process = multiprocessing.get_context("fork").Process(target=log.write, args=(text,))
            process.start()
            while path.stat().st_size == size and process.is_alive():
                pass
            process.kill()
            process.join()
            cut = path.stat().st_size - size < len(text)
            log.write("next\n")
            assert path.read_bytes()[-6:] == b"\nnext\n"
            os.truncate(path, 6)
            if cut:
                return
    pytest.skip("each write was faster than the signal")


def test_killed_with_a_child_that_was_given_the_descriptor(path: Path) -> None:
    """The child must not keep the lock."""
    program = """if True:
        import os, subprocess, sys
        import poollock._log.log_file
        log = poollock.LockedLogWriter(sys.argv[1])
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=log)
        print(child.pid, flush=True)
        def write(fd, data):
            os.kill(os.getpid(), 9)
        poollock._log.log_file.write = write
        log.write("lost")
        log.write("\\n")
    """
    died = subprocess.run(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert abs(died.returncode) == 9  # 9 itself on Windows
    with LockedLogWriter(path) as log:
        log.write("next\n")
    kill(int(died.stdout))
    assert path.read_text() == "next\n"


@needs_fork
def test_descriptor_for_others_is_the_childs_too(path: Path) -> None:
    with LockedLogWriter(path) as log:
        fd = log.fileno()

        def write_to_it() -> None:
            os.write(fd, b"1\n")
            log.write("2\n")

        assert in_child(write_to_it) == 0
    assert path.read_text() == "1\n2\n"


def test_descriptor_for_others_is_that_of_the_file_that_is_there(path: Path) -> None:
    log: Any  # for typeshed, subprocess takes a descriptor or an IO[str]
    with LockedLogWriter(path) as log:
        log.write("1\n")
        subprocess.run([sys.executable, "-c", "print(2)"], stdout=log, check=True)
        path.rename(path.with_suffix(".1"))
        subprocess.run([sys.executable, "-c", "print(3)"], stdout=log, check=True)
    assert path.with_suffix(".1").read_text() == "1\n2\n"
    assert path.read_text() == "3\n"


# Faults.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@needs_posix
def test_disk_full(small_disk: Path) -> None:
    path = small_disk / "log"
    with LockedLogWriter(path, newline="\r\n") as log:
        log.write("first\n")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            log.write(f"{'x' * 100_000}\n")
        assert path.read_bytes() == b"first\r\n"
        log.write("next\n")
    assert path.read_bytes() == b"first\r\nnext\r\n"


@needs_fork
def test_file_as_large_as_the_process_may_make_it(path: Path) -> None:
    import resource  # noqa: PLC0415 - not on Windows

    with LockedLogWriter(path) as log:
        log.write("first\n")

        def write_too_much() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                log.write(f"{'x' * 10_000}\n")
            log.write("next\n")

        assert in_child(write_too_much) == 0
    assert path.read_text() == "first\nnext\n"


def test_interrupted_in_the_middle_of_a_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("part", [0, 3])
def test_handler_writes_and_raises_in_the_middle_of_a_record(
    path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """What it has written stays, and is whole."""
    write = os.write

    def write_a_part(fd: int, data: bytes) -> int:
        write(fd, data[:part])
        monkeypatch.undo()
        log.write("inner\n")
        raise KeyboardInterrupt

    with LockedLogWriter(path) as log:
        log.write("first\n")
        monkeypatch.setattr("poollock._log.log_file.write", write_a_part)
        with pytest.raises(KeyboardInterrupt):
            log.write("second, and longer than what comes in its middle\n")
        log.write("third\n")
    assert path.read_text().split() == ["first", *["sec"] * bool(part), "inner", "third"]


@needs_fork
def test_permissions() -> None:
    """Neither to read the file nor to list its directory is needed; to write is."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o733)
        for file, mode in (("refused", 0o444), ("written", 0o622)):
            (directory / file).touch()
            (directory / file).chmod(mode)

        def write_as_nobody() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            with pytest.raises(PermissionError, match="refused"):
                LockedLogWriter(directory / "refused")
            with LockedLogWriter(directory / "written", max_bytes=2, backup_count=1) as log:
                log.write("1\n")
                log.write("2\n")

        assert in_child(write_as_nobody) == 0
        assert (directory / "written.1").read_text() == "1\n"
        assert (directory / "written").read_text() == "2\n"


@removes_open_files
def test_directory_in_the_place_of_the_file(path: Path) -> None:
    with LockedLogWriter(path) as log:
        path.unlink()
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            log.write("1\n")
        path.rmdir()
        log.write("2\n")
    assert path.read_text() == "2\n"


def without_flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poollock._log.log_file.flock", without_flock)
    with pytest.raises(OSError, match="the file system has no locks; pass a lock") as info:
        LockedLogWriter(path)
    assert info.value.errno == errno.ENOLCK
    assert info.value.filename == str(path)
    with LockedLogWriter(path, lock=Lock(), max_bytes=5, backup_count=1) as log:
        log.write("1\n")
        log.write("long\n")
    assert path.read_text() == "long\n"
    assert path.with_suffix(".1").read_text() == "1\n"


def test_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record is on the disk when `write` returns, and so is the name of the file."""
    synced: list[int] = []

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    def inode(file: Path) -> int:
        return file.stat().st_ino

    fsync = os.fsync
    monkeypatch.setattr("poollock._log.log_file.sync", sync)
    monkeypatch.setattr(os, "fsync", sync)
    directory = [] if sys.platform == "win32" else [inode(path.parent)]  # where none can be opened
    with LockedLogWriter(path, fsync=True, max_bytes=6, backup_count=1) as log:
        assert synced == directory
        log.write("1\n")
        assert synced.pop() == inode(path)
        log.write("23456"[: 6 - len(os.linesep)] + "\n")
        assert synced[len(directory) :] == [inode(path.with_suffix(".1")), *directory, inode(path)]


def test_no_descriptor_is_left(path: Path) -> None:
    before = open_files()
    with LockedLogWriter(path, max_bytes=1, backup_count=3, fsync=True) as log:
        for _ in range(10):
            log.write("x\n")
            log.fileno()
    with contextlib.suppress(OSError):
        LockedLogWriter(path.parent)
    assert open_files() <= before
