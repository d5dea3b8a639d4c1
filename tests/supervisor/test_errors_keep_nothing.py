"""What an error's traceback leads to is freed with the error: no cycle leads back to it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

import pytest

from helpers import Factory, wait_until
from poollock import LockedPool

# What was in the frames of the errors, in this process; a worker has its own.
_used: list[weakref.ref[Used]] = []


class Used:
    """What a function works with while it raises."""

    def __init__(self) -> None:
        _used.append(weakref.ref(self))


def alive() -> int:
    return sum(ref() is not None for ref in _used)


def fail(_: object = None) -> NoReturn:
    used = Used()
    raise ValueError(str(used))


class NotPickled:
    def __reduce__(self) -> NoReturn:
        fail()


class NotUnpickled:
    def __reduce__(self) -> Any:
        return fail, ()


class NotPickledError(NotPickled, Exception):
    pass


class NotUnpickledError(NotUnpickled, Exception):
    pass


def give(value: Any) -> Any:
    return value() if isinstance(value, type) else None


def raise_error(kind: type[Exception]) -> NoReturn:
    raise kind


def items() -> Iterator[int]:
    yield 1
    fail()


class Items:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> NoReturn:
        fail()


def iterate(results: Any) -> None:
    for _ in results:
        pass


CALLS: dict[str, Callable[[LockedPool], object]] = {
    "task": lambda pool: pool.apply(fail),
    "tasks": lambda pool: pool.map(fail, range(3)),
    "result is not pickled": lambda pool: pool.apply(give, (NotPickled,)),
    "result is not unpickled": lambda pool: pool.apply(give, (NotUnpickled,)),
    "error is not pickled": lambda pool: pool.apply(raise_error, (NotPickledError,)),
    "error is not unpickled": lambda pool: pool.map(raise_error, [NotUnpickledError]),
    "argument is not pickled": lambda pool: pool.apply(give, (NotPickled(),)),
    "argument is not unpickled": lambda pool: pool.apply(give, (NotUnpickled(),)),
    "item is not pickled": lambda pool: pool.map(give, [NotPickled()]),
    "item of imap is not pickled": lambda pool: iterate(pool.imap(give, [NotPickled()])),
    "iterable raises": lambda pool: iterate(pool.imap_unordered(str, items())),
    "sized iterable raises": lambda pool: pool.map(str, Items()),  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    "callback raises": lambda pool: pool.apply_async(str, callback=fail).get(),
}


@pytest.mark.parametrize("what", CALLS)
def test_nothing_waits_for_the_garbage_collector(
    pool: LockedPool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", str)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            pool.apply(gc.disable)
        with suppress(Exception):
            CALLS[what](pool)
        wait_until(lambda: alive() == 0)
        assert pool.map(count_alive, range(10), chunksize=1) == [0] * 10
    finally:
        gc.enable()


def count_alive(_: int) -> int:
    gc.disable()
    return alive()


def test_worker_that_died_leaves_nothing(factory: Factory) -> None:
    """Its tasks and their results are not kept by the thread that has replaced it."""
    gc.disable()
    try:
        with factory(1) as pool:
            result = pool.apply_async(exit_worker)
            with suppress(Exception):
                result.get()
            pool.apply(str)  # by the next worker
            kept = weakref.ref(result)
            del result
            wait_until(lambda: kept() is None)
    finally:
        gc.enable()


def exit_worker() -> NoReturn:
    import os  # noqa: PLC0415 - only here

    os._exit(1)
