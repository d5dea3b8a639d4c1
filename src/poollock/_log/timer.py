"""What LockedLogWriter.timed returns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from poollock._backend.describe import show_error
from poollock._typing import Self


class Timer:
    """A ``with`` block that is timed, and leaves one line in a log.

    Attributes:
        seconds: How long the block took; 0.0 until it ends.
        log_error: Why the line is not in the log, as ``OSError: TEXT``; None if it is there.  The error
            itself is raised, unless the block has raised one.
    """

    def __init__(self, write_record: Callable[[str], None], label: str, stamp: bool) -> None:  # noqa: FBT001 - keywords take longer
        self._write_record = write_record
        self._label = label
        self._stamp = stamp
        self._start = 0.0
        self.seconds: float = 0.0
        self.log_error: str | None = None  # an exception would keep the caller's frame, which has the timer

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.seconds = time.monotonic() - self._start
        if error is None:
            self._write_line(f"cost: {self.seconds:.6f}")
            return
        with suppress(Exception):  # the block's own goes on
            shown = show_error(error, Exception).removesuffix(": ")  # it may have no text
            self._write_line(f"failed after {self.seconds:.6f}: {shown}")

    def _write_line(self, text: str) -> None:
        line = f"{self._label} {text}"
        if self._stamp:
            line = f"{_now()} {os.getpid()} {line}"
        line = line.replace("\r", " ").replace("\n", " ")
        try:
            try:
                self._write_record(f"{line}\n")
            except UnicodeEncodeError:
                self._write_record(line.encode("ascii", "backslashreplace").decode() + "\n")
        except Exception as error:
            self.log_error = show_error(error, Exception)
            raise


def _now() -> str:
    from datetime import datetime  # noqa: PLC0415 - which takes long to import, and few want it

    return datetime.now().astimezone().isoformat(timespec="milliseconds")
