"""LockedLogHandler: as logging's own handlers, for many processes."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import open_files
from poollock import Lock, LockedLogHandler, LockedPool


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
    assert path.read_bytes() == b"INFO requests: request \xe9 4\n"
    assert path.with_suffix(".1").read_bytes().count(b"\n") == 2
    assert path.with_suffix(".2").read_bytes().startswith(b"INFO requests: request \xe9 0\n")


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


def test_error_is_handled_as_logging_does(
    path: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.addHandler(handler := LockedLogHandler(path, encoding="ascii"))
    logger.warning("%d", "x")
    logger.warning("é")
    error = capsys.readouterr().err
    assert error.count("--- Logging error ---") == 2
    assert "TypeError: %d format" in error
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
