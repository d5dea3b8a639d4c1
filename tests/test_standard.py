"""CPython's own tests of multiprocessing.Pool, with locked_pool in its place."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import sys
import unittest
from typing import Any
from unittest import mock

import pytest

import poollock
from conftest import METHODS

standard: Any = pytest.importorskip("test._test_multiprocessing", reason="this Python has no test package")

# Not `locked_pool` itself: `multiprocessing.pool.Pool(context=...)` takes the context as its fifth argument.
REPLACED = {"multiprocessing.Pool": poollock.locked_pool, "multiprocessing.pool.Pool": poollock.LockedPool}
TESTS = ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime", "TestPoolNotLeakOnFailure")


def with_locked_pool(name: str, method: str) -> type[unittest.TestCase]:
    base = getattr(standard, name)

    class Test(base):  # type: ignore[misc]
        TYPE = "processes"

        @classmethod
        def setUpClass(cls) -> None:
            cls.before = multiprocessing.get_start_method(allow_none=True)
            multiprocessing.set_start_method(method, force=True)
            cls.patches = [mock.patch(target, new) for target, new in REPLACED.items()]
            for patch in cls.patches:
                patch.start()
            super().setUpClass()

        @classmethod
        def tearDownClass(cls) -> None:
            super().tearDownClass()
            for patch in cls.patches:
                patch.stop()
            multiprocessing.set_start_method(cls.before, force=True)

        Pool = staticmethod(poollock.locked_pool)
        Process = staticmethod(multiprocessing.Process)
        Value = staticmethod(multiprocessing.Value)
        Event = staticmethod(multiprocessing.Event)

    Test.__name__ = Test.__qualname__ = f"{name.strip('_')}_{method}"
    Test.__module__ = __name__
    return type(Test.__name__, (Test, unittest.TestCase), {"__module__": __name__})


for _method in METHODS:
    for _name in TESTS:
        _test = with_locked_pool(_name, _method)
        setattr(sys.modules[__name__], _test.__name__, _test)
del _test
