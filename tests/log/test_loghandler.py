"""LockedLogHandler: as logging's own handlers, for many processes."""

from __future__ import annotations

import errno
import gzip
import logging
import logging.config
import logging.handlers
import os
import pickle
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from helpers import in_child, needs_fork, needs_posix, open_files, removes_open_files
from poollock import Lock, LockedLogHandler, LockedPool, locked_pool


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger whose handlers are closed in the end."""
    made = logging.Logger("test")  # noqa: LOG001 - for one test alone
    yield made
    for handler in made.handlers:
        handler.close()


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def configuration(path: Path, **options: Any) -> dict[str, Any]:
    """What a user has, with the class alone changed."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "%(levelname)s %(name)s: %(message)s"}},
        "handlers": {
            "file": {
                "class": "poollock.LockedLogHandler",
                "filename": str(path),
                "formatter": "short",
                "level": "INFO",
                **options,
            }
        },
        "root": {"handlers": ["file"], "level": "DEBUG"},
    }


@pytest.mark.usefixtures("_logging_as_before")
def test_in_a_configuration(path: Path) -> None:
    logging.config.dictConfig(configuration(path, maxBytes=60, backupCount=2, encoding="latin-1"))
    for number in range(5):
        logging.getLogger("requests").info("request é %d", number)
    logging.getLogger("requests").debug("not this one")
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, LockedLogHandler)
    assert repr(handler) == f"<LockedLogHandler {path} (INFO)>"
    assert path.read_text("latin-1") == "INFO requests: request é 4\n"
    assert path.with_suffix(".1").read_bytes().count(b"\n") == 2
    assert (
        path.with_suffix(".2")
        .read_bytes()
        .startswith(f"INFO requests: request é 0{os.linesep}".encode("latin-1"))
    )


def log_some(number: int) -> None:
    for count in range(50):
        logging.getLogger("worker").info("%d %s", number * 50 + count, "x" * 5000)


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("way", ["dictConfig", "handler"])
def test_workers_that_configure_logging(
    factory: Callable[..., LockedPool], method: str, path: Path, way: str
) -> None:
    initializer: Callable[..., object] = logging.config.dictConfig
    initargs: tuple[Any, ...] = (configuration(path),)
    handler = None
    if way == "handler":
        initializer, initargs = add_handler, (handler := LockedLogHandler(path),)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    with factory(4, initializer, initargs, context=method) as pool:
        pool.map(log_some, range(8), chunksize=1)
    if handler:
        handler.close()
    lines = path.read_text().splitlines()
    assert all(line.endswith("x" * 5000) and line.startswith("INFO worker: ") for line in lines)
    assert sorted(int(line.split()[2]) for line in lines) == list(range(400))


def add_handler(handler: logging.Handler) -> None:
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [((), {"max_bytes": 5, "backup_count": 1}), (("a", 5, 1), {}), ((), {"maxBytes": 5, "backupCount": 1})],
)
def test_arguments_of_both(
    path: Path, logger: logging.Logger, arguments: tuple[Any, ...], options: dict[str, int]
) -> None:
    logger.addHandler(LockedLogHandler(path, *arguments, **options))  # type: ignore[arg-type] # of several types
    logger.warning("one")
    logger.warning("two")
    assert path.read_text() == "two\n"
    assert path.with_suffix(".1").read_text() == "one\n"


def test_wrong_arguments(path: Path) -> None:
    with pytest.raises(ValueError, match="mode must be 'a', not 'w': another process"):
        LockedLogHandler(path, "w")
    LockedLogHandler(path, "w", 1000).close()  # RotatingFileHandler appends then, too
    path.unlink()
    with pytest.raises(TypeError, match=r"path is 'a\.log' and filename 'b\.log': give one"):
        LockedLogHandler("a.log", filename="b.log")
    with pytest.raises(TypeError, match="maxBytes and max_bytes are one thing"):
        LockedLogHandler("a.log", maxBytes=5, max_bytes=7)
    with pytest.raises(TypeError, match="needs the path of a file"):
        LockedLogHandler()
    with pytest.raises(TypeError, match="max_bytes must be an int, not 'utf-8'"):
        LockedLogHandler(path, "a", "utf-8")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError):
        LockedLogHandler(path / "log")
    assert not path.exists()


@removes_open_files
def test_opens_the_file_when_it_is_made_or_by_the_first_record(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(handler := LockedLogHandler(path, delay=True))
    assert not path.exists()
    assert handler.baseFilename == str(path)
    logger.warning("one")
    assert path.read_text() == "one\n"
    path.unlink()
    LockedLogHandler(path).close()
    assert path.read_text() == ""


def test_formats_outside_the_lock(path: Path, logger: logging.Logger) -> None:
    """A record whose text is long in the making keeps nobody waiting."""
    formatting, go_on = threading.Event(), threading.Event()

    class Slow:
        def __str__(self) -> str:
            formatting.set()
            go_on.wait()
            return "slow"

    logger.addHandler(LockedLogHandler(path, lock=Lock()))
    thread = threading.Thread(target=logger.warning, args=("%s", Slow()))
    thread.start()
    formatting.wait()
    logger.warning("fast")
    assert path.read_text() == "fast\n"
    go_on.set()
    thread.join()
    assert path.read_text() == "fast\nslow\n"


@removes_open_files
def test_error_is_handled_as_logging_does(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.addHandler(handler := LockedLogHandler(path, encoding="ascii"))
    logger.warning("%d", "x")
    logger.warning("é")
    error = capsys.readouterr().err
    assert error.count("--- Logging error ---") == 2
    assert re.search("TypeError: .*%d", error)
    assert "UnicodeEncodeError" in error
    handled: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", handled.append)
    path.unlink()
    path.mkdir()
    logger.warning("no file")
    assert [record.getMessage() for record in handled] == ["no file"]


def test_interrupt_is_not_an_error_of_logging(path: Path, logger: logging.Logger) -> None:
    class Interrupts:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    logger.addHandler(LockedLogHandler(path))
    with pytest.raises(KeyboardInterrupt):
        logger.warning("%s", Interrupts())


def test_endless_recursion_is_the_programs_error(path: Path, logger: logging.Logger) -> None:
    class Endless:
        def __str__(self) -> str:
            return str(self)

    logger.addHandler(LockedLogHandler(path))
    with pytest.raises(RecursionError):
        logger.warning("%s", Endless())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters may do so from 3.12 on")
def test_filter_that_puts_another_record_in_place(path: Path) -> None:
    handler = LockedLogHandler(path)
    record, other = [
        logging.LogRecord("name", logging.INFO, "file", 1, text, None, None) for text in ("one", "other")
    ]

    def replace(_: logging.LogRecord) -> Any:  # for typeshed, a bool before 3.12
        return other

    handler.addFilter(replace)
    handler.handle(record)
    handler.close()
    assert path.read_text() == "other\n"


def test_filters(path: Path) -> None:
    handler = LockedLogHandler(path)
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    for text in ("secret", "open"):
        record = logging.LogRecord("name", logging.INFO, "file", 1, text, None, None)
        assert bool(handler.handle(record)) is (text == "open")
    handler.close()
    assert path.read_text() == "open\n"


def test_terminator(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(handler := LockedLogHandler(path))
    handler.terminator = ";"
    logger.warning("one")
    logger.warning("two")
    assert path.read_text() == "one;two;"


def test_handler_is_closed_while_another_thread_writes(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closes:
        def __str__(self) -> str:
            writer = handler._writer
            handler.close()
            handler._writer, replaced = writer, handler._writer  # as a thread sees it that was faster

            def append(data: bytes) -> None:
                handler._writer = replaced
                raise ValueError("I/O operation on closed file")

            writer._append = append
            return "late"

    logger.addHandler(handler := LockedLogHandler(path))
    logger.warning("%s", Closes())
    assert path.read_text() == "late\n"


def test_record_after_close_opens_the_file_again(path: Path, logger: logging.Logger) -> None:
    """As with FileHandler: a configuration closes the handlers of the one before."""
    logger.addHandler(handler := LockedLogHandler(path))
    logger.warning("one")
    handler.close()
    before = open_files()
    handler.close()
    logger.warning("two")
    assert path.read_text() == "one\ntwo\n"
    handler.close()
    assert open_files() <= before


def test_sent_to_another_process_it_is_the_same(path: Path) -> None:
    handler = LockedLogHandler(path, fsync=True, newline="\r\n")
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("sent: %(message)s"))
    again: LockedLogHandler = pickle.loads(pickle.dumps(handler))
    again.handle(logging.LogRecord("name", logging.INFO, "file", 1, "text", None, None))
    handler.close()
    again.close()
    assert again.level == logging.ERROR
    assert path.read_bytes() == b"sent: text\r\n"


def test_behind_a_memory_handler_and_a_queue_listener(path: Path, logger: logging.Logger) -> None:
    handler = LockedLogHandler(path)
    memory = logging.handlers.MemoryHandler(10, target=handler)
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, memory)
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    logger.warning("kept back")
    listener.stop()
    assert path.read_text() == ""
    memory.close()
    handler.close()
    assert path.read_text() == "kept back\n"


def test_wrong_argument_leaves_nothing_to_be_closed(path: Path) -> None:
    """What `logging` knows it closes when the program exits."""
    code = f"""
import logging, poollock
before = list(logging._handlerList)
for arguments in [dict(mode="w"), dict(encoding="utf-99"), dict(max_bytes=-1)]:
    try:
        handler = poollock.LockedLogHandler({str(path)!r}, **arguments)
    except (ValueError, LookupError) as error:
        kept = error.__traceback__
    assert logging._handlerList == before, arguments
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# What the standard library's handlers have besides.


def compressed_name(name: str) -> str:
    return f"{name}.gz"


def compress(source: str, target: str) -> None:
    with Path(source).open("rb") as file, gzip.open(target, "wb") as packed:
        packed.write(file.read())
    Path(source).unlink()


def unpacked(file: Path) -> str:
    return (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()


@removes_open_files
def test_namer_and_rotator(path: Path, logger: logging.Logger) -> None:
    """As the standard library's cookbook compresses older files."""
    ours = LockedLogHandler(path, maxBytes=5, backupCount=2)
    theirs = logging.handlers.RotatingFileHandler(path.parent / "theirs", maxBytes=5, backupCount=2)
    for handler in (ours, theirs):
        handler.namer = compressed_name
        handler.rotator = compress
        logger.addHandler(handler)
    assert (ours.namer, ours.rotator) == (compressed_name, compress)
    for number in range(5):
        logger.warning("%d", number)
    theirs.close()
    found = {
        prefix: {file.name.removeprefix(prefix): unpacked(file) for file in path.parent.glob(f"{prefix}*")}
        for prefix in ("log", "theirs")
    }
    assert found["log"] == {"": "4\n", ".1.gz": "2\n3\n", ".2.gz": "0\n1\n"}
    assert found["log"] == found["theirs"]


@removes_open_files
def test_rotator_is_given_a_name_that_is_free(path: Path, logger: logging.Logger) -> None:
    def rotate(source: str, target: str) -> None:
        os.link(source, target)  # which refuses another
        os.unlink(source)

    logger.addHandler(handler := LockedLogHandler(path, maxBytes=2, backupCount=1))
    handler.rotator = rotate
    for number in range(3):
        logger.warning("%d", number)
    assert path.with_suffix(".1").read_text() == "1\n"


def rotating(path: Path) -> None:
    handler = LockedLogHandler(path, maxBytes=1000, backupCount=1000)
    handler.namer = compressed_name
    handler.rotator = compress
    add_handler(handler)


def log_numbers(number: int) -> None:
    for count in range(50):
        logging.getLogger("worker").info("%d", number * 50 + count)


@removes_open_files
@pytest.mark.usefixtures("_logging_as_before")
def test_workers_that_compress(method: str, path: Path) -> None:
    with locked_pool(4, rotating, (path,), context=method) as pool:
        pool.map(log_numbers, range(8), chunksize=1)
    lines = "".join(unpacked(file) for file in path.parent.iterdir()).splitlines()
    assert sorted(int(line.rpartition(":")[2]) for line in lines) == list(range(400))


@pytest.mark.parametrize("truncates", [False, True])
def test_rotator_that_leaves_the_file(
    path: Path,
    logger: logging.Logger,
    truncates: bool,  # noqa: FBT001 - of pytest
) -> None:
    def copy(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes())
        if truncates:
            os.truncate(source, 0)

    logger.addHandler(handler := LockedLogHandler(path, maxBytes=2, backupCount=3))
    handler.rotator = copy
    for number in range(3):
        logger.warning("%d", number)
    assert path.read_text() == ("2\n" if truncates else "0\n1\n2\n")
    assert path.with_suffix(".1").read_text() == ("1\n" if truncates else "0\n1\n")
    handler.doRollover()
    assert path.with_suffix(".1").read_text() == ("2\n" if truncates else "0\n1\n2\n")


def test_rotator_that_fails(path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As logging has it; what the system refuses makes the file grow."""

    def fail(source: str, target: str) -> None:
        raise errors.pop()

    errors: list[Exception] = [RuntimeError("x"), OSError(errno.ENOSPC, "full")]
    handled: list[logging.LogRecord] = []
    logger.addHandler(handler := LockedLogHandler(path, maxBytes=2, backupCount=1))
    monkeypatch.setattr(handler, "handleError", handled.append)
    handler.rotator = fail
    logger.warning("1")
    with pytest.warns(RuntimeWarning, match="full"):
        logger.warning("2")
    logger.warning("3")
    assert [record.getMessage() for record in handled] == ["3"]
    assert path.read_text() == "1\n2\n"
    handler.rotator = None
    logger.warning("4")
    assert path.read_text() == "4\n"


def test_rotator_that_logs(path: Path, logger: logging.Logger) -> None:
    """To the log itself, and in a thread that must not wait for itself."""

    def rotate(source: str, target: str) -> None:
        os.rename(source, target)
        logger.warning("rotated")

    logger.addHandler(handler := LockedLogHandler(path, maxBytes=2, backupCount=1))
    handler.rotator = rotate
    logger.warning("1")
    logger.warning("2")
    assert path.read_text() == "rotated\n2\n"
    assert path.with_suffix(".1").read_text() == "1\n"


def test_sizes_that_are_set(path: Path, logger: logging.Logger) -> None:
    logger.addHandler(handler := LockedLogHandler(path))
    assert (handler.maxBytes, handler.backupCount, handler.namer, handler.rotator) == (0, 0, None, None)
    logger.warning("1")
    size: Any = 2.0
    handler.maxBytes = size
    logger.warning("2")
    handler.backupCount = 1
    assert (handler.maxBytes, handler.backupCount) == (2, 1)
    assert path.read_text() == "1\n2\n"
    logger.warning("3")
    assert path.read_text() == "3\n"
    again: LockedLogHandler = pickle.loads(pickle.dumps(handler))
    assert (again.maxBytes, again.backupCount) == (2, 1)
    handler.maxBytes = 0
    logger.warning("4")
    assert path.read_text() == "3\n4\n"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("maxBytes", -1, "max_bytes must not be negative: -1"),
        ("backupCount", "3", "backup_count must be an int, not '3'"),
        ("namer", "x", "namer must be a callable or None, not 'x'"),
        ("rotator", 3, "rotator must be a callable or None, not 3"),
        ("baseFilename", "x", "baseFilename|set"),
    ],
)
def test_wrong_value_is_refused(
    path: Path, logger: logging.Logger, name: str, value: Any, error: str
) -> None:
    logger.addHandler(handler := LockedLogHandler(path))
    with pytest.raises((TypeError, ValueError, AttributeError), match=error):
        setattr(handler, name, value)
    logger.warning("1")
    assert path.read_text() == "1\n"


def test_size_of_a_console_is_refused() -> None:
    handler = LockedLogHandler(sys.stderr)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="<stderr> has no size"):
        handler.maxBytes = 5
    handler.doRollover()
    handler.close()


@removes_open_files
@pytest.mark.usefixtures("_logging_as_before")
def test_attributes_in_a_configuration(path: Path) -> None:
    attributes = {"namer": compressed_name, "rotator": compress, "maxBytes": 1}
    logging.config.dictConfig(configuration(path, backupCount=1, **{".": attributes}))
    logging.getLogger("requests").warning("1")
    logging.getLogger("requests").warning("2")
    assert gzip.decompress((path.parent / "log.1.gz").read_bytes()) == b"WARNING requests: 1\n"


@removes_open_files
def test_rollover(path: Path, logger: logging.Logger) -> None:
    """As with RotatingFileHandler: whatever the size, and with a backupCount alone."""
    logger.addHandler(handler := LockedLogHandler(path, backupCount=2))
    logger.warning("1")
    handler.doRollover()
    assert path.read_text() == ""
    handler.doRollover()
    logger.warning("2")
    assert path.read_text() == "2\n"
    assert path.with_suffix(".1").read_text() == ""
    assert path.with_suffix(".2").read_text() == "1\n"
    handler.backupCount = 0
    handler.doRollover()
    assert path.read_text() == "2\n"
    handler.backupCount = 2
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        handler.doRollover()


@needs_posix
def test_rollover_that_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl  # noqa: PLC0415 - not on Windows

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    handler = LockedLogHandler(path, backupCount=2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="Read-only file system"):
            handler.doRollover()
    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="another program keeps the lock of the directory"):
        handler.doRollover()
    os.close(directory)
    handler.doRollover()
    assert path.with_suffix(".1").exists()
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    handler.close()


def roll_over(handler: LockedLogHandler, number: int) -> None:
    for count in range(20):
        handler.handle(logging.LogRecord("name", logging.INFO, "file", 1, f"{number}-{count}", None, None))
        handler.doRollover()


def test_workers_that_roll_over(method: str, path: Path) -> None:
    handler = LockedLogHandler(path, backupCount=10_000)
    with locked_pool(4, tasks.wait_for_rotations, context=method) as pool:
        pool.starmap(roll_over, [(handler, number) for number in range(8)], chunksize=1)
    handler.close()
    lines = [line for file in path.parent.iterdir() for line in file.read_text().split()]
    assert sorted(lines) == sorted(f"{number}-{count}" for number in range(8) for count in range(20))


def test_rollover_from_a_handler_in_the_middle_of_a_record(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after that."""
    write = os.write

    def roll_and_write(fd: int, data: bytes) -> int:
        handler.doRollover()
        assert not path.with_suffix(".1").exists()
        return write(fd, data)

    logger.addHandler(handler := LockedLogHandler(path, backupCount=1))
    monkeypatch.setattr("poollock._log.log_file.write", roll_and_write)
    logger.warning("1")
    assert path.read_text() == ""
    assert path.with_suffix(".1").read_text() == "1\n"


def test_lock(path: Path, logger: logging.Logger) -> None:
    """Who has it keeps the other threads of the process from writing, and may log."""
    logger.addHandler(handler := LockedLogHandler(path))
    thread = threading.Thread(target=logger.warning, args=("other thread",))
    assert handler.lock is not None
    with handler.lock:
        logger.warning("1")
        thread.start()
        thread.join(0.1)
        logger.warning("2")
    thread.join()
    handler.acquire()
    handler.release()
    assert path.read_text() == "1\n2\nother thread\n"
    again: LockedLogHandler = pickle.loads(pickle.dumps(handler))
    assert again.lock is not None
    with again.lock:
        pass


@needs_fork
def test_lock_in_a_forked_child(path: Path, logger: logging.Logger) -> None:
    """A thread of the parent has it."""
    logger.addHandler(handler := LockedLogHandler(path))
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        assert handler.lock is not None
        with handler.lock:
            held.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert in_child(lambda: logger.warning("child")) == 0
    go_on.set()
    thread.join()
    assert path.read_text() == "child\n"
