"""How the text of a log becomes bytes: as that of a file does that is opened with the same arguments."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable

_LINE_ENDS = {None: os.linesep, "": "\n", "\n": "\n", "\r": "\r", "\r\n": "\r\n"}


def line_end(newline: str | None) -> str:
    """Return what a newline is written as.

    Raises:
        ValueError: *newline* is nothing that ``open`` knows.
    """
    if newline not in _LINE_ENDS:
        raise ValueError(f"newline must be None, '', '\\n', '\\r' or '\\r\\n', not {newline!r}")
    return _LINE_ENDS[newline]


def check_encoding(encoding: str, errors: str) -> None:
    """Raise if there is no such encoding or error handler, or each record would begin with a mark."""
    if "".encode(encoding):
        raise ValueError(f"the encoding {encoding!r} would put a byte order mark into each record")
    codecs.lookup_error(errors)


def encoder(encoding: str, errors: str, line: str) -> Callable[[str], bytes]:
    """Return what encodes a text whose lines are to end in *line*."""
    if line != "\n":
        return lambda text: text.replace("\n", line).encode(encoding, errors)
    if codecs.lookup(encoding).name == "utf-8" and errors == "strict":
        return str.encode
    return lambda text: text.encode(encoding, errors)
