"""LockedPool as a multiprocessing.Pool: arguments, life and end."""

from __future__ import annotations

import gc
import importlib.metadata
import multiprocessing
import multiprocessing.pool
import os
import tempfile
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import poollock
import tasks
from helpers import (
    FACTORIES,
    METHODS,
    children,
    kill,
    needs_posix,
    open_files,
    running,
    stop,
    wait_until,
    workers,
)
from poollock import BaseLock, Lock, LockedPool, RLock, Semaphore, locked_pool
from poollock._locks import shared_words
from poollock._supervisor import event_loop
from poollock._supervisor.dispatcher import Dispatcher


@pytest.mark.parametrize("make", FACTORIES)
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"processes": 0}, ValueError, "processes must be at least 1, not 0"),
        ({"processes": 2.5}, TypeError, "processes must be an int"),
        ({"processes": "4"}, TypeError, "processes must be an int"),
        ({"processes": True}, TypeError, "processes must be an int"),
        ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild must be at least 1"),
        ({"maxtasksperchild": 1.0}, ValueError, "maxtasksperchild must be an int"),
        ({"initializer": 3}, TypeError, "initializer must be a callable, not 3"),
        ({"initargs": 3}, TypeError, "not iterable"),
        ({"context": "thread"}, ValueError, "thread"),
        ({"context": 7}, TypeError, "context must be a multiprocessing context"),
        ({"locks": "log"}, TypeError, r"locks=\('console', 'log'\)"),
        ({"locks": 5}, TypeError, r"locks=\('console', 'log'\)"),
        ({"locks": Lock()}, TypeError, "a mapping of name to lock"),
        ({"locks": [3]}, TypeError, "name of a lock must be a str, not 3"),
        ({"locks": ["a b"]}, ValueError, "'a b'"),
        ({"locks": ["class"]}, ValueError, "'class'"),
        ({"locks": ["log", "log"]}, ValueError, "'log' stands twice"),
        (
            {"locks": {"log": multiprocessing.Lock()}},
            TypeError,
            r"locks\['log'\] must be a Lock.*SomeOther|of poollock",
        ),
        ({"locks": {"log": None}}, TypeError, r"locks\['log'\] must be a Lock"),
    ],
)
def test_wrong_arguments(
    make: Callable[..., LockedPool], arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    before = children()
    with pytest.raises(error, match=text):
        make(**arguments)
    assert children() == before


@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
@pytest.mark.parametrize("make", FACTORIES)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", [Lock, RLock, partial(Semaphore, 2)])
def test_lock_for_another_start_method(
    make: Callable[..., LockedPool], method: str, kind: Callable[..., BaseLock]
) -> None:
    before = children()
    text = f"start method 'fork'.*make the lock with context='{method}'"
    with pytest.raises(ValueError, match=text):
        make(locks={"log": kind(context="fork")}, context=method)
    assert children() == before


def test_is_a_pool() -> None:
    with locked_pool(1) as pool:
        assert isinstance(pool, multiprocessing.pool.Pool)
        assert isinstance(pool, LockedPool)
        assert isinstance(pool.lock, Lock)
        assert repr(pool) == "<poollock.LockedPool state=RUN pool_size=1>"
        with pytest.raises(NotImplementedError):
            pool.__reduce__()
        with pytest.raises(TypeError):
            pool.locks["more"] = Lock()  # type: ignore[index] # it must not work


def test_number_of_workers_is_the_standard_one() -> None:
    with locked_pool() as pool, multiprocessing.Pool() as standard:
        assert repr(pool).split()[-1] == repr(standard).split()[-1]


def test_arguments_by_position() -> None:
    with locked_pool(1, tasks.remember, ["word"], 5) as pool:
        assert pool.apply(tasks.remembered, (0,)) == ["word"]


def test_only_lock_and_several() -> None:
    semaphore = Semaphore(2)
    with locked_pool(1, locks={"api": semaphore}) as pool:
        assert pool.lock is semaphore
        assert semaphore.name == "api"
        assert pool.apply(tasks.current_name, ("lock",)) == "api"
    with locked_pool(1, locks=["a", "b"]) as pool, pytest.raises(AttributeError, match="but 'a', 'b': see"):
        _ = pool.lock
    with locked_pool(1, locks=()) as pool:
        assert pool.map(tasks.add, [1]) == [1]


def test_a_lock_keeps_the_name_it_was_given_first() -> None:
    lock = Lock()
    with locked_pool(1, locks={"one": lock}), locked_pool(1, locks={"two": lock}) as pool:
        assert lock.name == "one"
        assert pool.apply(tasks.current_name, ("two",)) == "one"


def test_two_pools_share_a_lock(factory: Callable[..., LockedPool], method: str) -> None:
    with (
        locked_pool(1, context=method) as pool,
        factory(1, context=method) as other,
        pool.lock,
    ):
        assert not other.apply(tasks.try_lock, (pool.lock,))
        assert other.apply(tasks.try_lock)


@pytest.mark.parametrize("end", ["with", "terminate", "close", "collected"])
def test_no_process_is_left(factory: Callable[..., LockedPool], method: str, end: str) -> None:
    before = children()
    pool = factory(2, context=method)
    assert pool.map(tasks.holder_seen, range(4))
    with pool.lock:
        pass
    assert len(children() - before) == (2 if factory is locked_pool else 3)
    if end == "with":
        with pool:
            pass
    elif end == "terminate":
        pool.terminate()
        pool.join()
    elif end == "close":
        pool.close()
        pool.join()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # as from a Pool that nobody closed
            del pool
            gc.collect()
        wait_until(lambda: children() == before)  # the garbage collector does not
    assert children() == before


def test_pool_that_nobody_keeps(factory: Callable[..., LockedPool], method: str) -> None:
    """The thread that brings its last result is the one that ends it."""
    before = children()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = factory(2, context=method)
        result = pool.apply_async(tasks.holder_seen, (1,))
        del pool
        result.get()
    wait_until(lambda: children() == before)


@needs_posix
def test_pool_that_is_collected_makes_nobody_wait(
    factory: Callable[..., LockedPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may run in any thread, and that may have any lock."""
    monkeypatch.setattr(event_loop, "_KILL_DELAY", 1e9)
    before = children()
    pool = factory(1)
    (worker,) = workers(pool)
    stop(worker)  # now it does not end by SIGTERM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        gc.collect()
    assert running(worker)
    kill(worker)
    wait_until(lambda: children() == before)


def test_results_are_kept_by_their_users_alone(factory: Callable[..., LockedPool], method: str) -> None:
    with factory(2, context=method) as pool:
        results: list[Any] = [
            pool.apply_async(tasks.holder_seen, (1,)),
            pool.map_async(tasks.holder_seen, range(4)),
            pool.imap(tasks.holder_seen, range(4)),
            pool.imap_unordered(tasks.holder_seen, range(4)),
        ]
        assert all([*result] if hasattr(result, "next") else result.get() for result in results)
        kept = [weakref.ref(result) for result in results]
        del results
        wait_until(lambda: all(ref() is None for ref in kept))


@needs_posix
def test_nothing_is_left_open(
    factory: Callable[..., LockedPool], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"mp-{os.getpid()}-"  # /dev/shm is everybody's
    monkeypatch.setitem(multiprocessing.current_process()._config, "semprefix", f"/{prefix}")  # type: ignore[attr-defined] # not in typeshed
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def use() -> None:
        with factory(2, locks={"lock": Semaphore(2, context=method)}, context=method) as pool:
            pool.map(tasks.holder_seen, range(4))
            pool.lock.locked()
        pool.join()

    shared_words._free.clear()  # a new page of shared memory, two descriptors, must not begin in between
    use()  # the first pool of a start method starts its helpers
    gc.collect()
    before = open_files()
    for _ in range(3):
        use()
        gc.collect()
    # The pool's threads end by themselves, a moment after the pool: what they have goes with them.
    wait_until(lambda: open_files() <= before)
    wait_until(lambda: not [name for name in os.listdir("/dev/shm") if prefix in name])
    assert [name for name in os.listdir(tmp_path) if name.startswith("poollock-")] == []


def test_lock_is_freed_with_its_pool(factory: Callable[..., LockedPool], method: str) -> None:
    """At once, also if the next pool begins before: every fork has something to do for every lock."""
    locks: list[weakref.ref[BaseLock]] = []

    def use() -> None:
        for _ in range(3):
            with factory(1, context=method) as pool:  # the one before is still there when it begins
                assert pool.map(tasks.holder_seen, range(3))
                with suppress(ValueError):  # whose traceback leads to the pool
                    pool.apply(int, ("x",))
            locks.append(weakref.ref(pool.lock))
            wait_until(lambda: sum(lock() is not None for lock in locks) == 1)

    gc.disable()
    try:
        use()
        wait_until(lambda: sum(lock() is not None for lock in locks) == 0)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"])
def test_chunksize(factory: Callable[..., LockedPool], name: str) -> None:
    with factory(1) as pool:
        method: Any = getattr(pool, name)
        for chunksize in 0, -1:
            with pytest.raises(ValueError, match=rf"(?i)chunksize must be 1.*{chunksize}"):
                method(abs, [1, 2], chunksize)
        items: Any = [(1,), (2,)] if "star" in name else [1, 2]
        result = method(abs, items, None)
        assert sorted(result.get() if "async" in name else result) == [1, 2]
        result = method(abs, items, Index(2))
        assert sorted(result.get() if "async" in name else result) == [1, 2]
        with pytest.raises(TypeError):
            method(abs, items, 1.5)


class Index:
    """A whole number of another package, such as numpy's int64."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_task_handler_outlives_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is known that it might meet; nobody is to wait for ever if there is one."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with locked_pool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(Dispatcher, "put", fail)
            with pytest.raises(poollock.PoolLockError, match="ZeroDivisionError"):
                pool.apply(tasks.add, (1, 2))
        assert pool.apply(tasks.add, (1, 2)) == 3


def test_workers_do_not_start_when_the_first_cannot() -> None:
    before = children()
    with pytest.raises(RuntimeError, match="context='spawn'"):
        locked_pool(2, tasks.remember, (Lock(context="fork"),), context="spawn")
    assert children() == before


def test_error_of_the_first_start_leaves_no_cycle_behind(
    factory: Callable[..., LockedPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Exception):  # noqa: N818 - it is what happened
        pass

    def refuse(process: BaseProcess) -> None:
        if "PoolWorker" in process.name:
            raise Refused
        start(process)

    def error_of_a_start() -> weakref.ref[Refused]:
        try:
            factory(2)
        except Refused as error:
            return weakref.ref(error)
        raise AssertionError

    start = BaseProcess.start
    monkeypatch.setattr(BaseProcess, "start", refuse)
    gc.collect()
    gc.disable()
    try:
        assert error_of_a_start()() is None
    finally:
        gc.enable()


def test_version_is_the_packages() -> None:
    assert poollock.__version__ == importlib.metadata.version("poollock")
    assert "__version__" in dir(poollock)


def test_public_names() -> None:
    assert set(poollock.__all__) <= set(dir(poollock))
    for name in poollock.__all__:
        public = getattr(poollock, name)
        assert public.__module__ == "poollock"
        assert public.__doc__
        if isinstance(public, type):
            for attribute, value in vars(public).items():
                if not attribute.startswith("_"):
                    documented = any(
                        getattr(vars(base).get(attribute), "__doc__", None) for base in public.__mro__
                    )
                    assert documented, f"{name}.{attribute}: {value}"
