"""Numbers that a user gives, checked before any process starts or any file is opened."""

from __future__ import annotations


def check_count(name: str, count: object, error: type[Exception] = TypeError) -> None:
    """Raise unless *count* is None or a number from 1 on; *error* if it is no number."""
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool):
        raise error(f"{name} must be an int or None, not {count!r}")
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")


def check_size(name: str, size: object) -> None:
    """Raise unless *size* is a number from 0 on."""
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name} must be an int, not {size!r}")
    if size < 0:
        raise ValueError(f"{name} must not be negative: {size}")
