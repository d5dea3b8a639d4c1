"""LockedLogHandler: a LockedLogWriter for the logging module, which takes long to import."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from poollock._typing import override

from .console import target_of
from .options import LogOptions
from .sink import threads
from .writer import LockedLogWriter


class LockedLogHandler(logging.Handler):
    """``logging.handlers.RotatingFileHandler`` for any number of processes.

    It can be named in a ``logging.config.dictConfig``, ``"class": "poollock.LockedLogHandler"``,
    and sent to another process.

    Args:
        path: The file, as for :class:`LockedLogWriter`.
        mode: ``"a"``, since another process may have written to the file.  With *maxBytes* it has no
            effect, as with ``RotatingFileHandler``.
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
        super().__init__()  # last, because logging closes at exit each handler that has come so far
        if not delay:
            self._writer._ensure_open()

    @override
    def handle(self, record: logging.LogRecord) -> bool:
        """Emit *record* if the filters let it pass.

        Unlike another handler's, this one's lock is held only while the record is written, so threads
        filter and format at the same time.

        Returns:
            Whether they let it pass.
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
        except RecursionError:  # which logging.StreamHandler raises too, CPython issue 36272
            raise
        except Exception:  # noqa: BLE001 - handleError is for whatever happens here
            self.handleError(record)

    def _write(self, text: str) -> None:
        if self.lock is None or threads.progress.depth:  # in the middle of a record nothing may wait
            self._write_record(text)
            return
        with self.lock:
            self._write_record(text)

    def _write_record(self, text: str) -> None:
        while True:
            writer = self._writer
            try:
                return writer._write_record(text)
            except ValueError:
                if writer is self._writer:  # if not, another thread has closed that one
                    raise

    @override
    def close(self) -> None:
        """Close the file; as with ``FileHandler``, a record that comes late opens it again."""
        super().close()
        self._reopen()

    def _reopen(self, **changes: Any) -> None:
        """Close the file; the next record opens it again, with the options changed."""
        with nullcontext() if self.lock is None else self.lock:
            if changes:
                self._options = self._options._replace(**changes).checked()
            writer, self._writer = self._writer, LockedLogWriter._unopened(self._options)
            writer.close()

    def doRollover(self) -> None:  # noqa: N802 - RotatingFileHandler's
        """Rename the file, and the older ones before it, whatever its size.

        With ``backupCount`` 0 nothing happens.  Each call rotates: if several processes call it, the log
        is rotated as often.

        Raises:
            OSError: The file cannot be renamed.
        """
        self._writer._rotate()

    @property
    def maxBytes(self) -> int:  # noqa: N802 - RotatingFileHandler's
        """The size in bytes that the file is not to exceed; 0 is no limit."""
        return self._options.max_bytes

    @maxBytes.setter
    def maxBytes(self, size: int) -> None:  # noqa: N802 - the same
        self._reopen(max_bytes=_as_count(size))

    @property
    def backupCount(self) -> int:  # noqa: N802 - RotatingFileHandler's
        """How many older files are kept."""
        return self._options.backup_count

    @backupCount.setter
    def backupCount(self, count: int) -> None:  # noqa: N802 - the same
        self._reopen(backup_count=_as_count(count))

    @property
    def namer(self) -> Callable[[str], str] | None:
        """A function that makes the name of an older file from ``path.1`` and so on; or ``None``.

        It must be the same in every process.
        """
        return self._options.namer

    @namer.setter
    def namer(self, namer: Callable[[str], str] | None) -> None:
        self._reopen(namer=namer)

    @property
    def rotator(self) -> Callable[[str, str], object] | None:
        """A function that makes the first older file from the log, given the names of both; or ``None``.

        Other processes wait for it before they write.  If it leaves the log where it is, that grows on.
        """
        return self._options.rotator

    @rotator.setter
    def rotator(self, rotator: Callable[[str, str], object] | None) -> None:
        self._reopen(rotator=rotator)

    @property
    def baseFilename(self) -> str:  # noqa: N802 - FileHandler's
        """The absolute path of the file."""
        return self._writer.name

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.createLock()

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.baseFilename} ({logging.getLevelName(self.level)})>"


def _as_count(number: Any) -> Any:
    """Return a whole float as an int, ``5e3`` for example; anything else as it is."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
