"""Functions and classes that workers cannot import, sent by cloudpickle."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import tasks
from helpers import Factory
from poollock import LockedPool

pytest.importorskip("cloudpickle")

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (lambdas, as a user writes them)


def test_lambda_and_closure(pool: LockedPool) -> None:
    factor = 3

    def scaled(lock: Any, x: int) -> int:
        with lock:
            return x * factor

    def named(*, lock: Any) -> Any:
        return lock.name

    assert pool.map(scaled, range(5)) == [0, 3, 6, 9, 12]
    assert pool.submit(lambda x: x + factor, 1).result() == 4
    assert list(pool.imap_unordered(scaled, [7])) == [21]
    assert pool.starmap(lambda x, y: tasks.add(x, y), [(1, 2)]) == [3]
    assert pool.apply(named) == "lock"
    assert pool.apply(lambda: lambda x: x + factor)(5) == 8


def test_local_classes(pool: LockedPool) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self, by: int) -> Point:
            return Point(self.x + by)

    class OwnError(Exception):
        pass

    def fail(point: Point) -> None:
        raise OwnError(point)

    assert pool.apply(tasks.identity, (Point(1),)).x == 1
    point = pool.apply(Point(1).moved, (2,))
    assert type(point) is Point
    assert point.x == 3
    with pytest.raises(OwnError) as caught:
        pool.apply(fail, (Point(5),))
    assert type(caught.value.args[0]) is Point
    assert "in fail" in str(caught.value.__cause__)


def test_private_method(pool: LockedPool) -> None:
    class Private:
        def __work(self, x: int) -> int:
            return x + 1

        def task(self) -> Any:
            return self.__work

    assert pool.map(Private().task(), [1, 2]) == [2, 3]


def test_what_modules_define_goes_by_name(pool: LockedPool) -> None:
    function, counter = pool.apply(lambda: (tasks.add, tasks.Counter("path")))
    assert function is tasks.add
    assert type(counter) is tasks.Counter


def test_initializer(factory: Factory, method: str) -> None:
    with factory(1, lambda word: tasks.initialized.append(word), ("first",), context=method) as pool:
        assert pool.apply(tasks.remembered, (0,)) == ["first"]


def test_what_neither_can_send(pool: LockedPool, tmp_path: Path) -> None:
    door = threading.Lock()
    with pytest.raises(TypeError, match=r"the variable 'door' of .*: a lock"):
        pool.apply(lambda: door.locked())
    # Not a copy of what is in it.
    with open(tmp_path / "file", "w+") as file, pytest.raises(TypeError, match="argument 0: a TextIOWrapper"):
        pool.apply(tasks.identity, (file,))
    assert pool.apply(tasks.add, (1, 2)) == 3


def test_lock_in_a_closure(factory: Factory, method: str) -> None:
    with factory(2, context=method) as pool:
        lock = pool.lock

        def held(_: int) -> bool:
            with lock:
                return bool(lock._is_held_here())

        assert pool.map(held, range(4)) == [True] * 4
