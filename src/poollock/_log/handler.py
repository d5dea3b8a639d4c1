"""LockedLogHandler: the log of all processes for the logging module; not imported before it is wanted."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from typing import Any

from poollock._typing import override

from .console import target_of
from .options import LogOptions
from .writer import LockedLogWriter


class LockedLogHandler(logging.Handler):
    """``logging.handlers.RotatingFileHandler`` for any number of processes.

    It can be named in a ``logging.config.dictConfig``, ``"class": "poollock.LockedLogHandler"``,
    and sent to another process.

    Args:
        path: The file, as for :class:`LockedLogWriter`.
        mode: ``"a"``, or anything with *maxBytes*, as with ``RotatingFileHandler``: another
            process may have written to the file.
        maxBytes: Bytes: *max_bytes* of ``LockedLogWriter``, by ``RotatingFileHandler``'s name.
            A configuration file may have it as ``5e3``.
        backupCount: *backup_count*, by the same.
        encoding: As for ``LockedLogWriter``; ``None`` is UTF-8.
        delay: Whether the file is opened by the first record.
        errors: As for ``LockedLogWriter``; ``None`` is ``"strict"``.
        filename: *path*, by ``FileHandler``'s name.
        lock: As for ``LockedLogWriter``, and so are *newline*, *max_bytes*, *backup_count*
            and *fsync*.

    Raises:
        OSError: The file cannot be opened.
        TypeError: There is no path, an argument is not of its kind, or is given by both its names.
        ValueError: *mode* is another, or an argument is one that ``LockedLogWriter`` refuses.
    """

    terminator = "\n"
    __module__ = "poollock"

    def __init__(  # noqa: PLR0917 - RotatingFileHandler's order
        self,
        path: str | os.PathLike[str] | None = None,
        mode: str = "a",
        maxBytes: int = 0,  # noqa: N803 - so that the class is all that changes in a configuration
        backupCount: int = 0,  # noqa: N803 - the same
        encoding: str | None = None,
        delay: bool = False,  # noqa: FBT001, FBT002 - logging's
        errors: str | None = None,
        *,
        filename: str | os.PathLike[str] | None = None,
        lock: AbstractContextManager[Any] | None = None,
        newline: str | None = None,
        max_bytes: int = 0,
        backup_count: int = 0,
        fsync: bool = False,
    ) -> None:
        if filename is not None and path is not None:
            raise TypeError(f"path is {path!r} and filename {filename!r}: give one of them")
        path = filename if path is None else path
        if path is None:
            raise TypeError("LockedLogHandler needs the path of a file")
        if (maxBytes and max_bytes) or (backupCount and backup_count):
            raise TypeError("maxBytes and max_bytes are one thing, and so are backupCount and backup_count")
        if mode != "a" and not (max_bytes or maxBytes):
            raise ValueError(f"mode must be 'a', not {mode!r}: another process may have written to the file")
        self._options = LogOptions(
            target_of(path),
            lock,
            encoding or "utf-8",
            errors or "strict",
            newline,
            _as_count(max_bytes or maxBytes),
            _as_count(backup_count or backupCount),
            fsync,
        ).checked()
        self._writer = LockedLogWriter._unopened(self._options)
        super().__init__()  # at last: logging closes at exit what has come so far
        if not delay:
            self._writer._ensure_open()

    @override
    def createLock(self) -> None:
        # Nothing in a handler needs one: records are formatted at the same time, and the file has its own.
        self.lock: Any = None

    @override
    def handle(self, record: logging.LogRecord) -> bool:
        """Emit *record* if the filters let it pass; without a lock.

        Returns:
            Whether they did.
        """
        passed: Any = self.filter(record)
        if passed:
            # From Python 3.12 on a filter may put another record in its place.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Format *record* and write it, whole."""
        try:
            self._write(self.format(record) + self.terminator)
        except RecursionError:  # as logging.StreamHandler, CPython issue 36272
            raise
        except Exception:  # noqa: BLE001 - handleError is for whatever happens here
            self.handleError(record)

    def _write(self, text: str) -> None:
        while True:
            writer = self._writer
            try:
                return writer._write_record(text)
            except ValueError:
                if writer is self._writer:  # else another thread has closed it
                    raise

    @override
    def close(self) -> None:
        """Close the file; as with ``FileHandler``, a record that comes late opens it again."""
        super().close()
        writer, self._writer = self._writer, LockedLogWriter._unopened(self._options)
        writer.close()

    @property
    def baseFilename(self) -> str:  # noqa: N802 - FileHandler's
        """The absolute path of the file."""
        return self._writer.name

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.baseFilename} ({logging.getLevelName(self.level)})>"


def _as_count(number: Any) -> Any:
    """Return a whole number as an int, ``5e3`` among them; anything else as it is."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
