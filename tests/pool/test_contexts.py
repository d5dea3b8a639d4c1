"""Which contexts a pool can use."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from helpers import METHODS, Factory, children, environment
from poollock import Lock, LockedPool, locked_pool


def foreign_context(method: str) -> Any:
    """A context as the packages multiprocess and billiard have: copies of multiprocessing's classes."""
    copied = type("BaseProcess", (), {"__module__": "multiprocess.process"})
    process = type("Process", (copied,), {"__module__": "multiprocess.context"})
    return SimpleNamespace(Process=process, get_start_method=lambda: method, get_context=lambda: None)


@pytest.mark.parametrize("method", METHODS)
def test_context_of_another_package_is_refused_at_once(factory: Factory, method: str) -> None:
    before = children()
    for make in factory, Lock:
        with pytest.raises(TypeError, match=rf"package 'multiprocess'.*get_context\('{method}'\)"):
            make(context=foreign_context(method))
    assert children() == before


def own_process(method: str) -> type[BaseProcess]:
    """A subclass of multiprocessing's class, as loky has, which workers find in this module."""
    context: Any = multiprocessing.get_context(method)
    return type(f"own_{method}", (context.Process,), {"__module__": __name__})


OWN_PROCESSES = {process.__name__: process for process in map(own_process, METHODS)}
globals().update(OWN_PROCESSES)


def test_context_with_processes_of_its_own(method: str) -> None:
    standard: Any = multiprocessing.get_context(method)

    class Context:
        Process = OWN_PROCESSES[f"own_{method}"]

        def __getattr__(self, name: str) -> Any:
            return getattr(standard, name)

    context: Any = Context()
    with locked_pool(1, context=context) as pool:
        assert pool.map(tasks.add, range(3)) == [0, 1, 2]
        assert isinstance(pool._pool[0], Context.Process)


FROM_STANDARD_INPUT = """
import multiprocessing
from poollock import {factory}

if __name__ == "__main__":
    try:
        with {factory}(2, context={method!r}) as pool:
            print(pool.map(abs, [-1]))
    except Exception as error:
        print(type(error).__name__, error)
    print(multiprocessing.active_children())
"""


@pytest.mark.parametrize("method", METHODS)
def test_program_from_standard_input(
    factory: Factory, method: str, tmp_path: Path, without_cloudpickle: Path
) -> None:
    done = subprocess.run(
        [sys.executable],
        input=FROM_STANDARD_INPUT.format(factory=factory.__name__, method=method),
        cwd=tmp_path,
        env=environment(without_cloudpickle),
        capture_output=True,
        text=True,
        check=True,
    )
    result, children = done.stdout.splitlines()
    assert (children, done.stderr) == ("[]", "")
    if method == "fork":
        assert result == "[1]"
    else:
        assert result.startswith(f"BrokenPoolError workers that {method!r} starts import the main module")
        assert repr(os.path.join(tmp_path, "<stdin>")) in result
        assert "or install poollock[cloudpickle]" in result


def test_modules_and_names_are_contexts() -> None:
    for context in (multiprocessing, multiprocessing.get_context(), *METHODS):
        with locked_pool(1, context=context) as pool:  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            assert isinstance(pool, LockedPool)
            assert pool.apply(tasks.add, (1,)) == 1
