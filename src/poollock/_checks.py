"""Numbers that a user gives, checked before any process starts or any file is opened."""

from __future__ import annotations

import operator
import os


def check_count(name: str, count: object, error: type[Exception] = TypeError) -> int | None:
    """Return *count* as an int, or None if it is None.

    Raises:
        TypeError: It is no integer; or *error* instead.
        ValueError: It is less than 1.
    """
    if count is None:
        return None
    number = _as_int(count)
    if number is None:
        raise error(f"{name} must be an int or None, not {count!r}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def check_size(name: str, size: object) -> int:
    """Return *size* as an int.

    Raises:
        TypeError: It is no integer.
        ValueError: It is negative.
    """
    number = _as_int(size)
    if number is None:
        raise TypeError(f"{name} must be an int, not {size!r}")
    if number < 0:
        raise ValueError(f"{name} must not be negative: {number}")
    return number


def check_timeout(name: str, seconds: object) -> None:
    """Raise unless *seconds* is None or a number above 0.

    Raises:
        TypeError: It is no number.
        ValueError: It is not above 0.
    """
    if seconds is None:
        return
    if isinstance(seconds, bool) or not hasattr(seconds, "__float__"):
        raise TypeError(f"{name} must be a number of seconds or None, not {seconds!r}")
    if not float(seconds) > 0:  # pyright: ignore[reportArgumentType] # it has __float__
        raise ValueError(f"{name} must be above 0, not {seconds}")


def check_path(name: str, path: object) -> str | None:
    """Return *path* as a str, or None if it is None.

    Raises:
        TypeError: It is no path.
    """
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path or None, not {path!r}")
    return os.fsdecode(path)  # pyright: ignore[reportUnknownArgumentType] # a path of bytes is one, too


def _as_int(number: object) -> int | None:
    """Return the int that *number* stands for, a NumPy integer for example, or None; a bool is no number."""
    if isinstance(number, bool):
        return None
    try:
        return operator.index(number)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # that is the question
    except TypeError:
        return None
