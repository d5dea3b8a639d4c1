"""The arguments of a LockedLogWriter, checked before a file is opened, and how they make text into bytes."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from poollock._checks import check_size
from poollock._typing import Self

from .console import CONSOLES
from .log_file import FileOptions

_LINE_ENDS = {None: os.linesep, "": "\n", "\n": "\n", "\r": "\r", "\r\n": "\r\n"}


class LogOptions(NamedTuple):
    """What a writer was made with, and is made with again in another process.

    Attributes:
        target: The absolute path of the file, or the name of a console.
        lock: The user's lock, if there is one.

        namer: What a handler's ``namer`` is.
        rotator: What its ``rotator`` is.

    The others are arguments of ``LockedLogWriter``.
    """

    target: str
    lock: AbstractContextManager[Any] | None
    encoding: str
    errors: str
    newline: str | None
    max_bytes: int
    backup_count: int
    fsync: bool
    namer: Callable[[str], str] | None = None
    rotator: Callable[[str, str], object] | None = None

    def checked(self) -> Self:
        """Return these options, their numbers as ints.

        Raises:
            Exception: What ``LockedLogWriter`` says it raises for a wrong argument.
        """
        if self.newline not in _LINE_ENDS:
            raise ValueError(f"newline must be None, '', '\\n', '\\r' or '\\r\\n', not {self.newline!r}")
        if "".encode(self.encoding):
            raise ValueError(f"the encoding {self.encoding!r} would put a byte order mark into each record")
        codecs.lookup_error(self.errors)
        if self.lock is not None and not hasattr(self.lock, "__enter__"):
            raise TypeError(f"lock must be a lock or None, not {self.lock!r}")
        max_bytes = check_size("max_bytes", self.max_bytes)
        backup_count = check_size("backup_count", self.backup_count)
        if self.target in CONSOLES and (self.max_bytes or self.backup_count or self.fsync):
            raise ValueError(f"{self.target} has no size to be limited, and no disk to be on")
        for name, function in (("namer", self.namer), ("rotator", self.rotator)):
            if function is not None and not callable(function):  # pyright: ignore[reportUnnecessaryComparison] # not every caller is checked
                raise TypeError(f"{name} must be a callable or None, not {function!r}")
        return self._replace(max_bytes=max_bytes, backup_count=backup_count)

    def encoder(self) -> Callable[[str], bytes]:
        """Return what encodes a text as a file does that ``open`` opens with the same arguments.

        It raises a ``TypeError`` for what is no ``str``.
        """
        encoding, errors, line_end = self.encoding, self.errors, _LINE_ENDS[self.newline]
        if line_end != "\n":
            return lambda text: str.replace(text, "\n", line_end).encode(encoding, errors)
        if codecs.lookup(encoding).name == "utf-8" and errors == "strict":
            return str.encode  # a lambda would make the call longer
        return lambda text: str.encode(text, encoding, errors)

    def of_file(self) -> FileOptions:
        """Return what the file needs to know of these."""
        line_end = _LINE_ENDS[self.newline]
        return FileOptions(
            newline=line_end.encode(self.encoding),
            ending=line_end[-1].encode(self.encoding),
            max_bytes=self.max_bytes if self.backup_count else 0,
            backup_count=self.backup_count,
            fsync=self.fsync,
            namer=self.namer,
            rotator=self.rotator,
        )
