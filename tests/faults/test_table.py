"""Each kind of fault at each point of a task's way; afterwards the pool works, and no child is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import fault_tasks as tasks
import pytest

from helpers import MaybeEncodingError, running, start_program, wait_until
from poollock import BrokenPoolError, InitializerError, LockedPool, WorkerDiedError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

# The error for a fault in the worker: while the argument is unpickled, the task runs, its result is pickled.
EXPECTED: dict[str, tuple[type[BaseException], ...]] = {
    "SIGKILL": (WorkerDiedError, WorkerDiedError, WorkerDiedError, BrokenPoolError),
    "SIGSEGV": (WorkerDiedError, WorkerDiedError, WorkerDiedError, BrokenPoolError),
    "C exit": (WorkerDiedError, WorkerDiedError, WorkerDiedError, BrokenPoolError),
    "exit": (SystemExit, SystemExit, MaybeEncodingError, InitializerError),
    "exception": (UnpicklingError, ValueError, MaybeEncodingError, InitializerError),
}


def outcome(pool: LockedPool, place: int, fault: str) -> Any:
    if place == 0:
        return pool.apply(tasks.same, (tasks.AtUnpickling(fault),))
    if place == 1:
        return pool.apply(tasks.run, (fault,))
    return pool.apply(tasks.give_at_pickling, (fault,))


@pytest.mark.parametrize("fault", tasks.FAULTS)
@pytest.mark.parametrize(
    "place", [0, 1, 2], ids=["unpickling the argument", "running", "pickling the result"]
)
def test_fault_in_a_task(pool: LockedPool, place: int, fault: str) -> None:
    others = pool.map_async(tasks.square, range(20), chunksize=1)
    with pytest.raises(EXPECTED[fault][place]):
        outcome(pool, place, fault)
    assert others.get() == [x * x for x in range(20)]
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("fault", ["exit", "exception"])
def test_fault_while_the_parent_unpickles(pool: LockedPool, fault: str) -> None:
    with pytest.raises(UnpicklingError, match="result of give_at_unpickling"):
        pool.apply(tasks.give_at_unpickling, (fault,))
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("fault", tasks.FAULTS)
def test_fault_in_the_initializer(
    factory: Callable[..., LockedPool], method: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    made = factory(2, tasks.count_and_fail, (str(path), fault), context=method)
    with made as pool, pytest.raises(EXPECTED[fault][3]):
        pool.apply(tasks.square, (3,))
    pids = path.read_text().split()
    assert len(pids) >= 3
    assert not any(running(int(pid)) for pid in pids)


PROGRAM = """
import sys
import fault_tasks as tasks
import poollock

if __name__ == "__main__":
    factory, method, fault = sys.argv[1:]
    with getattr(poollock, factory)(2, context=method) as pool:
        pool.map(tasks.square, range(10))
        print(*[process.pid for process in pool._pool], flush=True)
        pool.apply(tasks.give_at_unpickling, (fault,))
"""


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSEGV", "C exit"])
def test_parent_dies_while_it_unpickles(
    factory: Callable[..., LockedPool], method: str, fault: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with start_program(program, factory.__name__, method, fault) as process:
        pids = process.communicate()[0].split()
    assert (process.returncode == 0) == (fault == "C exit")
    wait_until(lambda: not any(running(int(pid)) for pid in pids))
