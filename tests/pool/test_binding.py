"""Which locks a call gets, and where."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from poollock import Lock, locked_pool
from poollock._pool.binding import bind_locks, bind_map, bind_star

LOCK, LOG, API = Lock(), Lock(), Lock()
LOCKS = {"lock": LOCK, "log": LOG, "api": API}


def first(lock: Any, x: Any) -> Any:
    return lock, x


def last(x: Any, lock: Any) -> Any:
    return x, lock


def keyword(x: Any, *, lock: Any) -> Any:
    return x, lock


def positional_only(lock: Any, x: Any, /) -> Any:
    return lock, x


def two(log: Any, api: Any, x: Any) -> Any:
    return log, api, x


def around(log: Any, x: Any, y: Any = 0, *, api: Any) -> Any:
    return log, x, y, api


def last_then_keyword(x: Any, lock: Any, *, log: Any) -> Any:
    return x, lock, log


def default(x: Any, lock: Any = None) -> Any:
    return x, lock


def anything(*args: Any, **kwds: Any) -> Any:
    return args, kwds


def middle(x: Any, lock: Any, y: Any) -> Any:
    return x, lock, y


class Holder:
    def method(self, lock: Any, x: Any) -> Any:
        return lock, x

    def __call__(self, x: Any, lock: Any) -> Any:
        return x, lock

    __hash__ = None  # type: ignore[assignment] # an object that no cache can keep


def call(func: Any, *args: Any, **kwds: Any) -> Any:
    return bind_locks(func, LOCKS, args, kwds)(*args, **kwds)


def test_places() -> None:
    assert call(first, 1) == (LOCK, 1)
    assert call(last, 1) == (1, LOCK)
    assert call(keyword, 1) == (1, LOCK)
    assert call(positional_only, 1) == (LOCK, 1)
    assert call(two, 1) == (LOG, API, 1)
    assert call(around, 1) == (LOG, 1, 0, API)
    assert call(around, 1, 2) == (LOG, 1, 2, API)
    assert call(around, 1, y=3) == (LOG, 1, 3, API)
    assert call(Holder().method, 1) == (LOCK, 1)
    assert call(Holder(), 1) == (1, LOCK)
    assert call(partial(first), 1) == (LOCK, 1)
    assert call(partial(around, y=5), 1) == (LOG, 1, 5, API)


def test_what_the_call_fills_is_the_callers() -> None:
    assert call(last_then_keyword, 1, API) == (1, API, LOG)
    assert call(last_then_keyword, 1) == (1, LOCK, LOG)
    assert call(keyword, 1, lock=LOG) == (1, LOG)
    assert call(first, x=1) == (LOCK, 1)
    assert call(partial(first, LOG), 1) == (LOG, 1)
    assert call(partial(keyword, lock=LOG), 1) == (1, LOG)


@pytest.mark.parametrize(
    ("func", "count"),
    [(first, 2), (last, 2), (default, 1), (anything, 1), (print, 1), (str, 1), (str.join, 2), (max, 1)],
)
def test_a_call_that_works_is_not_touched(func: Any, count: int) -> None:
    assert bind_locks(func, LOCKS, (LOCK,) * count) is func


def test_binding_is_a_partial() -> None:
    bound = bind_locks(around, LOCKS, (1,))
    assert isinstance(bound, partial)
    assert (bound.func, bound.args, bound.keywords) == (around, (LOG,), {"api": API})


def test_a_lock_in_the_middle() -> None:
    assert call(middle, 1, y=2) == (1, LOCK, 2)
    with pytest.raises(
        TypeError, match=r"middle\(x.*Put the lock parameters first, or make them keyword-only"
    ):
        bind_locks(middle, LOCKS, (1, 2))


def test_error_says_what_is_missing() -> None:
    def first(lock: Any, a: int, b: int) -> None:
        pass

    with pytest.raises(TypeError, match=r"with 1 positional argument: missing a required argument: 'b'$"):
        bind_locks(first, LOCKS, (1,))


def test_only_the_pools_own_names() -> None:
    assert bind_locks(two, {"lock": LOCK}, (1,)) is two


def test_datum_in_the_place_of_a_lock() -> None:
    def save(lock: Any, conn: Any, path: Any = None) -> Any:
        return lock, conn, path

    def save_all(lock: Any, *args: Any) -> Any:
        return lock, args

    assert bind_star(save, [("conn",)], LOCKS)[0]("conn") == (LOCK, "conn", None)
    with pytest.warns(RuntimeWarning, match=r"gives 'conn' to the parameter 'lock' of .*save\(lock.*no lock"):
        bind_star(save, [("conn", "/x")], LOCKS)
    with pytest.warns(RuntimeWarning, match="gives 1 to the parameter 'lock'") as caught:
        assert bind_map(save_all, [1, 2], LOCKS) is save_all
    assert len(caught) == 1
    # Warnings are errors here: there is one for each function.
    bind_star(save, [("conn", "/x")], LOCKS)
    assert bind_map(save_all, [1, 2], LOCKS) is save_all


@pytest.mark.parametrize("value", [LOCK, threading.Lock(), multiprocessing.Lock(), nullcontext()])
def test_lock_of_the_callers(value: Any) -> None:
    def work(lock: Any) -> Any:
        return lock

    assert bind_map(work, [value], LOCKS) is work


def test_nothing_is_taken_from_an_iterator() -> None:
    def work(lock: Any) -> Any:
        return lock

    items = iter([1, 2])
    assert bind_map(work, items, LOCKS) is work
    assert list(items) == [1, 2]


def misnamed(lck: Any, x: Any) -> Any:
    return lck, x


def named_lock(lock: Any, x: Any) -> Any:
    return lock, x


def lacks_two(a: Any, x: Any, y: Any) -> Any:
    return a, x, y


def fails(x: Any) -> None:
    raise TypeError("as ordered")


def test_misnamed_lock() -> None:
    with locked_pool(1) as pool:
        for call in (
            lambda: pool.map(misnamed, [1]),
            lambda: pool.apply(misnamed, (1,)),
            lambda: pool.starmap(misnamed, [(1,)]),
            lambda: list(pool.imap(misnamed, [1])),
        ):
            with pytest.raises(
                TypeError, match=r"argument: 'x'\nThe pool fills.*'lock'.*misnamed\(lck: 'Any', x"
            ):
                call()
        with pytest.raises(TypeError, match=r"as ordered$"):
            pool.map(fails, [1])
    with locked_pool(1, locks=("a", "b")) as pool:
        with pytest.raises(TypeError, match=r"locks \('a', 'b'\); named_lock\(lock"):
            pool.map(named_lock, [1])
        with pytest.raises(TypeError, match=r"its locks \('a', 'b'\) to .*with 1 positional argument"):
            bind_map(lacks_two, [1], pool.locks)
