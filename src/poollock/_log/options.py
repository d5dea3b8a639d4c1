"""The arguments of a LockedLogWriter, looked at before a file is opened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from poollock._checks import check_size

from .console import CONSOLES
from .log_file import FileOptions
from .text import check_encoding, encoder, line_end


class LogOptions(NamedTuple):
    """What a writer was made with, and is made with again in another process."""

    target: str
    lock: AbstractContextManager[Any] | None
    encoding: str
    errors: str
    newline: str | None
    max_bytes: int
    backup_count: int
    fsync: bool

    def check(self) -> None:
        """Raise what ``LockedLogWriter`` says it raises."""
        line_end(self.newline)
        check_encoding(self.encoding, self.errors)
        if self.lock is not None and not hasattr(self.lock, "__enter__"):
            raise TypeError(f"lock must be a lock or None, not {self.lock!r}")
        check_size("max_bytes", self.max_bytes)
        check_size("backup_count", self.backup_count)
        if self.max_bytes and self.backup_count and sys.platform == "win32":
            raise NotImplementedError("Windows cannot rename a file that other processes have open")
        if self.target in CONSOLES and (self.max_bytes or self.backup_count or self.fsync):
            raise ValueError(f"{self.target} has no size to be limited, and no disk to be on")

    def encoder(self) -> Callable[[str], bytes]:
        """Return what makes bytes of a text."""
        return encoder(self.encoding, self.errors, line_end(self.newline))

    def of_file(self) -> FileOptions:
        """Return what the file needs to know of them."""
        line = line_end(self.newline)
        return FileOptions(
            newline=line.encode(self.encoding),
            ending=line[-1].encode(self.encoding),
            max_bytes=self.max_bytes if self.backup_count else 0,
            backup_count=self.backup_count,
            fsync=self.fsync,
        )
