"""Counts and sizes: whatever is an integer to Python, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poollock import LockedLogHandler, LockedLogWriter, Semaphore, locked_pool


class Index:
    """As NumPy's integers: none is an ``int``."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


def test_pool() -> None:
    count: Any = Index(1)
    with locked_pool(count, maxtasksperchild=count) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_semaphore() -> None:
    two: Any = Index(2)
    semaphore = Semaphore(two)
    assert type(semaphore.value) is int
    with semaphore, semaphore:
        assert semaphore.locked()


def test_log(tmp_path: Path) -> None:
    size: Any = Index(3)
    count: Any = Index(1)
    with LockedLogWriter(tmp_path / "log", max_bytes=size, backup_count=count) as log:
        log.write("1\n")
        log.write("2\n")
    assert (tmp_path / "log.1").read_text() == "1\n"


@pytest.mark.parametrize("names", [("maxBytes", "backupCount"), ("max_bytes", "backup_count")])
@pytest.mark.parametrize("kind", [Index, float])
def test_handler(tmp_path: Path, names: tuple[str, str], kind: Any) -> None:
    handler = LockedLogHandler(tmp_path / "log", **dict(zip(names, [kind(5000), kind(2)], strict=True)))
    assert handler._options.max_bytes == 5000
    assert type(handler._options.backup_count) is int
    handler.close()


@pytest.mark.parametrize("wrong", [True, 1.5, "3", float("nan"), float("inf"), [1]])
def test_what_is_no_integer(tmp_path: Path, wrong: Any) -> None:
    for refused in (
        lambda: locked_pool(wrong),
        lambda: Semaphore(wrong),
        lambda: LockedLogWriter(tmp_path / "log", max_bytes=wrong),
        lambda: LockedLogHandler(tmp_path / "log", maxBytes=wrong, backupCount=1),
        lambda: LockedLogHandler(tmp_path / "log", backupCount=wrong),
    ):
        with pytest.raises(TypeError, match="must be an int"):
            refused()
    with pytest.raises(TypeError, match=r"must be an int, not 3\.0"):
        LockedLogWriter(tmp_path / "log", max_bytes=3.0)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # a handler's count alone may be
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_small() -> None:
    zero: Any = Index(0)
    less: Any = Index(-1)
    with pytest.raises(ValueError, match="processes must be at least 1, not 0"):
        locked_pool(zero)
    with pytest.raises(ValueError, match="value must not be negative: -1"):
        Semaphore(less)
