"""What a user is told of a task that cannot be sent."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import tasks
from helpers import workers
from poollock import LockedPool, locked_pool


@pytest.fixture(scope="module")
def forked(without_cloudpickle: Path) -> Iterator[LockedPool]:
    with locked_pool(1) as pool:
        yield pool


class Crawler:
    """Has what tasks have by mistake."""

    def __init__(self, **attributes: Any) -> None:
        self.depth = 3
        self.__dict__.update(attributes)

    def fetch(self, x: int) -> int:
        return x + self.depth


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (tasks.Counter, "nothing_of_this_name")


class Refuses:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("abc",)


class NoTextError(Exception):
    def __str__(self) -> str:
        raise AttributeError("text")


class Unexplained:
    def __reduce__(self) -> tuple[Any, ...]:
        raise NoTextError


class CustomError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)


class RaisesItsOwn:
    def __reduce__(self) -> tuple[Any, ...]:
        raise CustomError(1, 2)


def message(
    pool: LockedPool, func: Callable[..., Any], *args: Any, error: type[Exception] = Exception
) -> str:
    with pytest.raises(error) as caught:
        pool.apply(func, args)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_function_of_a_module_that_was_reloaded(forked: LockedPool) -> None:
    function = tasks.add_one_default
    old = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    for task in (old, partial(old, lock=None)):
        text = message(forked, task, "x", error=pickle.PicklingError)
        assert "    the function: the function tasks.add_one_default\n" in text
        assert "import it again, or install poollock[cloudpickle]" in text


def test_raw_lock_gains_the_way_out(forked: LockedPool) -> None:
    raw: Any = multiprocessing.Lock()
    task = partial(tasks.add_one_default, lock=raw)
    with pytest.raises(RuntimeError) as caught:
        forked.map(task, ["x"])
    text = str(caught.value)
    assert text.startswith("Lock objects should only be shared between processes through inheritance")
    assert "The task add_one_default, item 0 cannot be sent from process 'MainProcess'" in text
    assert "argument 'lock' of add_one_default: a Lock of multiprocessing.synchronize" in text
    assert "pass lock=pool.lock" in text


def test_raw_lock_in_the_data(forked: LockedPool) -> None:
    with pytest.raises(RuntimeError, match=r"item 1\[0\]: a RLock of"):
        forked.starmap(tasks.add, [(1,), (multiprocessing.RLock(),)], chunksize=2)


@pytest.mark.parametrize(
    ("name", "chunksize", "place"),
    [
        ("map", 5, "add, items 35 to 39 cannot.*item 38: a lock of"),
        ("map", 1, "add, item 38 cannot.*item 38: a lock of"),
        ("imap", 5, "add, items 35 to 39 cannot.*item 38: a lock of"),
        ("imap", 1, "add, item 38 cannot.*argument 0: a lock of"),
    ],
)
def test_item_in_a_later_chunk(forked: LockedPool, name: str, chunksize: int, place: str) -> None:
    data: list[Any] = [1] * 38 + [threading.Lock()] + [1]
    with pytest.raises(TypeError, match=f"(?s){place}"):
        list(getattr(forked, name)(tasks.add, data, chunksize))


@pytest.mark.parametrize(
    "make", [multiprocessing.Queue, multiprocessing.Event, partial(multiprocessing.Value, "i")]
)
def test_what_processes_share_gains_the_way_out(forked: LockedPool, make: Callable[[], Any]) -> None:
    assert "by the initializer, locked_pool(4, initializer, (it,))" in message(forked, tasks.add, make())


def test_data_too_deep_for_the_explanation(forked: LockedPool) -> None:
    deep: list[Any] = []
    for _ in range(100_000):  # from Python 3.14 on, the size of the stack is the limit
        deep = [deep]
    with pytest.raises(RecursionError, match="while pickling"):
        forked.apply(tasks.add, (deep,))


def test_attribute_of_the_methods_object(forked: LockedPool) -> None:
    text = message(forked, Crawler(pool=forked).fetch, 1, error=NotImplementedError)
    assert "Crawler.pool: a LockedPool" in text
    assert "__getstate__" in text
    assert "module-level function" in text


def test_attribute_deep_inside(forked: LockedPool) -> None:
    inner = Crawler(session={"locks": [threading.Lock()]})
    text = message(forked, tasks.add, Slotted(inner), error=TypeError)
    assert "Crawler.session['locks'][0]: a lock of _thread" in text


@pytest.mark.parametrize("in_map", [False, True])
def test_lambda_and_local_function(forked: LockedPool, in_map: bool) -> None:  # noqa: FBT001 - a parameter of the test
    def local(x: int) -> int:
        return x

    functions: list[Any] = [lambda x: x, local]  # pyright: ignore[reportUnknownLambdaType] # as a user writes it
    for function in functions:
        with pytest.raises((AttributeError, pickle.PicklingError)) as caught:
            forked.map(function, [1]) if in_map else forked.apply(function, (1,))
        assert f"the function: the function test_pickling.{function.__qualname__}" in str(caught.value)
        assert "Only what a module defines at its top level can be sent" in str(caught.value)
        assert "or install poollock[cloudpickle], which sends such a thing as it is." in str(caught.value)


def test_object_of_a_local_class(forked: LockedPool) -> None:
    class Local:
        pass

    assert "the class test_pickling.test_object_of_a_local_class.<locals>.Local" in message(
        forked, tasks.add, Local()
    )


def test_private_method(forked: LockedPool) -> None:
    with pytest.raises(
        pickle.PicklingError,
        match=r"Counter\.__private cannot be sent.*two underscores.*poollock\[cloudpickle",
    ):
        forked.map(tasks.Counter("").private(), [1])


def test_error_of_an_unknown_type(forked: LockedPool) -> None:
    assert "CustomError: (1, 2)" in message(forked, tasks.add, RaisesItsOwn(), error=pickle.PicklingError)


def test_explanation_that_fails(forked: LockedPool) -> None:
    with pytest.raises(NoTextError):
        forked.apply(tasks.add, (Unexplained(),))
    assert forked.apply(tasks.add, (1, 2)) == 3


def test_function_that_the_standard_map_uses(forked: LockedPool) -> None:
    mapstar = vars(multiprocessing.pool)["mapstar"]
    with pytest.raises(TypeError, match="mapstar"):
        forked.apply(mapstar)
    assert forked.apply(mapstar, ((divmod, [7, 9], iter([2, 4])),)) == [(3, 1), (2, 1)]
    assert forked.apply(mapstar, ((abs, (-1, 2)),)) == [1, 2]


def test_cycle(forked: LockedPool) -> None:
    crawler = Crawler()
    crawler.__dict__["friend"] = Crawler(friend=crawler, door=threading.Event())
    assert "Condition" in message(forked, tasks.add, crawler)


def test_task_that_the_worker_cannot_unpickle(forked: LockedPool) -> None:
    with pytest.raises(AttributeError, match="nothing_of_this_name") as caught:
        forked.apply(tasks.add, (Unloadable(),))
    assert "could not be unpickled in process" in str(caught.value)
    assert "put the function" in str(caught.value)
    assert "Or install poollock[cloudpickle]" in str(caught.value)
    assert forked.apply(tasks.add, (1, 2)) == 3  # the worker is still there


def test_argument_that_refuses_to_be_unpickled(forked: LockedPool) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"^ValueError: invalid literal") as caught:
        forked.apply(tasks.add, (Refuses(),))
    assert str(caught.value).endswith(f"(pid {workers(forked)[0]}).")


def test_pool_goes_on_after_a_task_that_was_not_sent(forked: LockedPool) -> None:
    unsendable: Any = threading.Lock()
    results = [forked.apply_async(tasks.add, (argument,)) for argument in (1, unsendable, 1)]
    assert results[0].get() == 1
    with pytest.raises(TypeError, match="argument 0: a lock of _thread"):
        results[1].get()
    assert results[2].get() == 1
