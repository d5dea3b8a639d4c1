"""Fixtures: pools of each kind, and a look at what is left over; what a time limit ends."""

from __future__ import annotations

import copyreg
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import FACTORIES, METHODS, Factory, children, end_what_was_started, kill_descendants
from poollock import LockedPool, manager_locked_pool
from poollock._worker.object_pickling import by_value


@pytest.fixture(params=METHODS, scope="module")
def method(request: pytest.FixtureRequest) -> str:
    """Each start method of this platform."""
    name: str = request.param
    return name


@pytest.fixture(params=FACTORIES, ids=["locked", "manager"], scope="module")
def factory(request: pytest.FixtureRequest) -> Factory:
    """Each of the two factories."""
    made: Factory = request.param
    return made


@pytest.fixture(scope="module")
def pool(factory: Factory, method: str) -> Iterator[LockedPool]:
    """A pool of two workers with one lock; of each kind, on each start method."""
    with factory(2, context=method) as made:
        yield made


@pytest.fixture(scope="module")
def without_cloudpickle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As if cloudpickle were not installed, in this process and what it starts; a folder that makes it so."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "cloudpickle.py").write_text("raise ImportError\n")
    by_value.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "cloudpickle", raising=False)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield folder
    by_value.cache_clear()


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, though a shell has what it starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Undo what importing Dask does to exceptions: tblib sends their tracebacks, too.

    It builds these by frames that lead to the error, in a cycle that waits for the garbage collector.
    """
    for kind, reduce in list(copyreg.dispatch_table.items()):
        if reduce.__module__.startswith("tblib"):
            del copyreg.dispatch_table[kind]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the gate what repeats a case for another start method.

    How a worker is started, and where its locks live, do not depend on each other; nor does what
    happens when it dies later.
    """
    for item in items:
        params: dict[str, Any] = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        repeats = params.get("factory") is manager_locked_pool or item.path.parent.name == "faults"
        if repeats and params.get("method", METHODS[0]) != METHODS[0]:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two processes for each processor, since tests wait a lot; none for tests that are given by name."""
    if any("::" in argument for argument in config.args):
        return 0
    return 2 * (os.cpu_count() or 1)


# A time limit ends whatever the test has started, or its own clean-up might wait for that for ever.

_timed_out: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Let the signal of pytest-timeout kill, too; and let it come again, if that does not help."""
    result = yield
    if hasattr(signal, "SIGALRM") and settings.method == "signal":
        fail: Any = signal.getsignal(signal.SIGALRM)

        def kill_and_fail(*args: Any) -> None:
            try:
                fail(*args)  # raises, unless there is a debugger
            except BaseException:
                _timed_out.add(item.nodeid)
                kill_descendants()
                raise

        signal.signal(signal.SIGALRM, kill_and_fail)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, min(settings.timeout, 10))
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After a time limit, end the fixtures of the module too: the next test gets new ones."""
    if item.nodeid in _timed_out:
        end_what_was_started()
        item.session._setupstate.teardown_exact(None)


@pytest.fixture(autouse=True, scope="module")
def _nothing_left() -> Iterator[None]:
    before, timed_out = children(), len(_timed_out)
    yield
    if len(_timed_out) == timed_out:
        assert multiprocessing.active_children() == []
        assert children() <= before
