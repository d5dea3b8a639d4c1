"""CPython's own tests of multiprocessing.Pool, with locked_pool in its place."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import unittest
import weakref
from typing import Any
from unittest import mock

import pytest

import poollock
from helpers import METHODS, wait_until

standard: Any = pytest.importorskip("test._test_multiprocessing", reason="this Python has no test package")

# They expect that a lambda cannot be sent.
pytestmark = pytest.mark.usefixtures("without_cloudpickle")

# Not `locked_pool` itself: `multiprocessing.pool.Pool(context=...)` takes the context as its fifth argument.
REPLACED: dict[str, Any] = {
    "multiprocessing.Pool": poollock.locked_pool,
    "multiprocessing.pool.Pool": poollock.LockedPool,
}
TESTS = ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime", "TestPoolNotLeakOnFailure")


def with_locked_pool(name: str, method: str) -> type[unittest.TestCase]:
    base: Any = getattr(standard, name)

    class Test(base):  # type: ignore[misc] # it is known at run time
        TYPE = "processes"

        @classmethod
        def setUpClass(cls) -> None:
            cls.before = multiprocessing.get_start_method(allow_none=True)
            multiprocessing.set_start_method(method, force=True)
            cls.patches = [mock.patch(target, new) for target, new in REPLACED.items()]
            for patch in cls.patches:
                patch.start()
            parent: Any = super()
            parent.setUpClass()

        @classmethod
        def tearDownClass(cls) -> None:
            parent: Any = super()
            parent.tearDownClass()
            for patch in cls.patches:
                patch.stop()
            multiprocessing.set_start_method(cls.before, force=True)
            gc.collect()  # a lock that was made with a mocked context must not be sent to other pools

        if hasattr(base, "test_release_task_refs"):

            def test_release_task_refs(self) -> None:
                """As CPython's, which gives threads 0.1 s to let go of what they have."""
                counted = [standard.CountedObject() for _ in range(10)]
                refs = [weakref.ref(each) for each in counted]
                self.pool.map(standard.identity, counted)
                del counted
                wait_until(lambda: not any(ref() for ref in refs) and not standard.CountedObject.n_instances)

        if sys.version_info < (3, 11):  # these were about fractions of seconds
            test_async_timeout = test_terminate = None

        Pool = staticmethod(poollock.locked_pool)
        Process = staticmethod(multiprocessing.Process)
        Value = staticmethod(multiprocessing.Value)
        Event = staticmethod(multiprocessing.Event)

    Test.__name__ = Test.__qualname__ = f"{name.strip('_')}_{method}"
    Test.__module__ = __name__
    made = type(Test.__name__, (Test, unittest.TestCase), {"__module__": __name__})
    return made if method == METHODS[0] else pytest.mark.slow(made)


# What differs between start methods is a worker's start; these are about all the rest.
globals().update(
    {test.__name__: test for test in [with_locked_pool(name, method) for method in METHODS for name in TESTS]}
)
