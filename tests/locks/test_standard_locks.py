"""CPython's own tests of multiprocessing's locks, with those of poollock in their place."""

from __future__ import annotations

import multiprocessing
import sys
import time
import unittest
from typing import Any

import pytest

import poollock
from helpers import METHODS

standard: Any = pytest.importorskip("test._test_multiprocessing", reason="this Python has no test package")

TESTS = ("_TestLock", "_TestSemaphore", "_TestCondition")


def _condition(lock: Any = None) -> Any:
    made: Any = lock or poollock.RLock()
    return multiprocessing.Condition(made)


def with_our_locks(name: str, method: str) -> type[unittest.TestCase]:
    base: Any = getattr(standard, name)
    context: Any = multiprocessing.get_context(method)

    class Test(base):  # type: ignore[misc] # it is known at run time
        TYPE = "processes"

        @classmethod
        def setUpClass(cls) -> None:
            cls.before = multiprocessing.get_start_method(allow_none=True)
            multiprocessing.set_start_method(method, force=True)

        @classmethod
        def tearDownClass(cls) -> None:
            multiprocessing.set_start_method(cls.before, force=True)

        # The text of a lock is another one.
        test_repr_lock = test_repr_rlock = None
        if sys.version_info < (3, 11):
            test_waitfor_timeout = None  # a wait of 0.1 s must end within a second there

        def assertReturnsIfImplemented(  # noqa: N802 - the standard library's
            self, value: int, function: Any, *arguments: Any
        ) -> None:
            """Have patience: before Python 3.14, whoever is woken gets 0.1 s to show that."""
            end = time.monotonic() + 30
            while function(*arguments) != value and time.monotonic() < end:
                time.sleep(0.01)
            parent: Any = super()
            parent.assertReturnsIfImplemented(value, function, *arguments)

        Lock = staticmethod(poollock.Lock)
        RLock = staticmethod(poollock.RLock)
        Semaphore = staticmethod(poollock.Semaphore)
        BoundedSemaphore = staticmethod(context.BoundedSemaphore)
        Condition = staticmethod(_condition)
        Event = staticmethod(context.Event)
        Process = staticmethod(context.Process)
        Value = staticmethod(context.Value)

    Test.__name__ = Test.__qualname__ = f"{name.strip('_')}_{method}"
    Test.__module__ = __name__
    test = type(Test.__name__, (Test, unittest.TestCase), {"__module__": __name__})
    return test if method == METHODS[0] else pytest.mark.slow(test)


globals().update(
    {test.__name__: test for test in [with_our_locks(name, method) for method in METHODS for name in TESTS]}
)
