"""The mode and the owner of a log, through rotation and renaming; a directory that cannot be written to."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import in_child
from poollock import LockedLogHandler, LockedLogWriter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

NOBODY = 65534
needs_root = pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="needs other users")


@pytest.fixture
def path() -> Iterator[Path]:
    """In a directory that other users may use, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name) / "log"


def permissions(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


@pytest.mark.parametrize("mode", [0o666, 0o600, 0o640, 0o644, 0o200])
@pytest.mark.parametrize("how", ["rotated", "renamed", "removed", "renamed and given to a child"])
def test_new_file_has_the_mode_of_the_old_one(path: Path, mode: int, how: str) -> None:
    """Else another user is locked out, or let in."""
    path.touch()
    path.chmod(mode)
    with LockedLogWriter(path, max_bytes=2 if how == "rotated" else 0, backup_count=1) as log:
        log.write("1\n")
        if how == "removed":
            path.unlink()
        elif how != "rotated":
            path.rename(path.with_suffix(".1"))
        if how == "renamed and given to a child":
            subprocess.run(["echo", "2"], stdout=log.fileno(), check=True)
        else:
            log.write("2\n")
        assert permissions(path)[0] == mode
        if how == "rotated":
            log.write("3\n")
            assert permissions(path)[0] == mode
            assert permissions(path.with_suffix(".1"))[0] == mode


def test_mode_that_is_changed_while_the_log_is_open(path: Path) -> None:
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        path.chmod(0o622)
        log.write("2\n")
        assert permissions(path)[0] == 0o622
        path.rename(path.with_suffix(".archive"))
        path.with_suffix(".archive").chmod(0o444)  # a new file that nobody may write to would be of no use
        log.write("3\n")
        assert permissions(path)[0] == 0o644


def test_mode_of_what_a_signal_handler_writes_in_the_middle_of_a_rotation(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def replace_and_write(old: str, new: str) -> None:
        replace(old, new)
        monkeypatch.undo()
        log.write("inner\n")

    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        path.chmod(0o600)
        monkeypatch.setattr(os, "replace", replace_and_write)
        log.write("2\n")
    assert permissions(path)[0] == 0o600


@needs_root
def test_owner_where_it_is_permitted(path: Path) -> None:
    path.touch()
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        log.write("2\n")
    assert permissions(path) == (0o640, 1234, 2345)


@needs_root
@pytest.mark.parametrize(
    ("groups", "expected"), [([2345], (0o662, NOBODY, 2345)), ([], (0o622, NOBODY, NOBODY))]
)
def test_owner_where_it_is_not_permitted(path: Path, groups: list[int], expected: tuple[int, ...]) -> None:
    """The group is kept if the process is in it; else its own group may do what others may."""
    path.touch()
    os.chown(path, 0, 2345)
    path.chmod(0o662)

    def rotate_as_nobody() -> None:
        os.setgroups(groups)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
            log.write("1\n")
            log.write("2\n")

    assert in_child(rotate_as_nobody) == 0
    assert permissions(path) == expected


@needs_root
def test_three_users_rotate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None ever finds a file that is not yet its own to write to, one that opens the log anew neither."""

    def write(user: int) -> None:
        os.setuid(user)
        with LockedLogWriter(path, max_bytes=30, backup_count=1000) as log:
            for number in range(0, 300, 2):
                log.write(f"{user}-{number}\n")
                with LockedLogWriter(path) as again:
                    again.write(f"{user}-{number + 1}\n")

    monkeypatch.setattr("poollock._log.opening._PATIENCE", 60)  # however slow the one that rotates is
    path.touch()
    path.chmod(0o666)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write, args=(user,)) for user in (0, NOBODY, 1234)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    lines = [line for file in path.parent.iterdir() for line in file.read_text().split()]
    assert sorted(lines) == sorted(f"{user}-{number}" for user in (0, NOBODY, 1234) for number in range(300))


@needs_root
def test_directory_that_cannot_be_written_to(path: Path) -> None:
    """The file grows, no record is lost, and one warning says so; until it can be renamed again."""
    path.touch()
    path.chmod(0o666)
    path.parent.chmod(0o755)

    def write_as_nobody() -> None:
        os.setuid(NOBODY)
        with LockedLogWriter(path, max_bytes=4, backup_count=1) as log:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                for number in range(4):
                    log.write(f"{number}\n")
            assert [str(warning.message) for warning in warned] == [
                f"{path} is larger than max_bytes and grows on, since it cannot be renamed: Permission denied"
            ]
            assert warned[0].filename == __file__
            assert path.read_text() == "0\n1\n2\n3\n"

    assert in_child(write_as_nobody) == 0
    path.parent.chmod(0o777)
    with LockedLogWriter(path, max_bytes=4, backup_count=1) as log:
        log.write("4\n")
    assert path.read_text() == "4\n"


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EBUSY, errno.ENOSPC])
def test_system_that_refuses_to_rename(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A file that is mounted on its own, as in a container, for example."""

    def refuse_so(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with LockedLogWriter(path, max_bytes=2, backup_count=2) as log:
        log.write("1\n")
        monkeypatch.setattr(os, "replace", refuse_so)
        with pytest.warns(RuntimeWarning, match=os.strerror(code)):
            log.write("2\n")
        log.write("3\n")  # and no more warnings, which would be errors
        assert path.read_text() == "1\n2\n3\n"
        monkeypatch.undo()
        log.write("4\n")
        assert path.read_text() == "4\n"


def test_backup_that_is_a_directory(path: Path) -> None:
    path.with_suffix(".1").mkdir()
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        with pytest.warns(RuntimeWarning, match="Is a directory"):
            log.write("2\n")
        assert path.read_text() == "1\n2\n"


def test_warning_that_is_an_error_comes_after_the_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LockedLogWriter(path, max_bytes=2, backup_count=2) as log:
        log.write("1\n")
        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(RuntimeWarning):
            log.write("2\n")
        assert path.read_text() == "1\n2\n"


def test_warning_that_goes_to_the_log_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(message: Any, *_: object, **__: object) -> None:
        log.write(f"{type(message).__name__}\n")

    with LockedLogWriter(path, max_bytes=2, backup_count=2) as log, warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        log.write("1\n")
        monkeypatch.setattr(os, "replace", refuse)
        log.write("2\n")
    assert path.read_text().split() == ["1", "2", "RuntimeWarning"]


def test_handler(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("test")  # noqa: LOG001 - for this test alone
    logger.addHandler(handler := LockedLogHandler(path, maxBytes=2, backupCount=1))
    logger.warning("1")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="grows on"):
        logger.warning("2")
    handler.close()
    assert path.read_text() == "1\n2\n"


def test_killed_before_the_new_file_has_its_mode(path: Path) -> None:
    """Nothing is left, and the next one makes it."""
    path.touch()
    path.chmod(0o666)
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")

        def rotate_and_die() -> None:
            def die(*_: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(os, "fchmod", die)  # noqa: B010 - in a child, which ends
            log.write("lost\n")

        assert in_child(rotate_and_die) == -signal.SIGKILL
        assert list(path.parent.iterdir()) == [path.with_suffix(".1")]
        log.write("2\n")
    assert path.read_text() == "2\n"
    assert permissions(path)[0] == 0o666


@pytest.mark.parametrize("lacking", ["O_TMPFILE", "link"])
def test_file_system_without_nameless_files(
    path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "link":
        monkeypatch.setattr(os, "link", refuse)
    else:
        monkeypatch.delattr(os, "O_TMPFILE")
    path.touch()
    path.chmod(0o666)
    with LockedLogWriter(path, max_bytes=2, backup_count=1) as log:
        log.write("1\n")
        log.write("2\n")
    assert path.read_text() == "2\n"
    assert permissions(path)[0] == 0o666


def test_log_that_is_opened_while_another_process_rotates(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the new file; or makes one itself, if somebody keeps the directory's lock for long."""
    import fcntl  # noqa: PLC0415 - not on Windows

    def create_and_give_back(_: float) -> None:
        path.touch()
        path.chmod(0o606)
        fcntl.flock(directory, fcntl.LOCK_UN)

    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with monkeypatch.context() as patched:
        patched.setattr("poollock._backend.flock.sleep", create_and_give_back)
        patched.setattr("poollock._log.opening._PATIENCE", 60)
        LockedLogWriter(path).close()
    assert permissions(path)[0] == 0o606
    path.unlink()
    fcntl.flock(directory, fcntl.LOCK_EX)
    monkeypatch.setattr("poollock._log.opening._PATIENCE", 0.1)
    LockedLogWriter(path).close()
    assert path.exists()
    os.close(directory)
