"""trace=: what the file has, and that nothing is lost when workers are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trace_tasks as tasks

from helpers import (
    ONE_METHOD,
    TESTS,
    Factory,
    environment,
    handled_at,
    interrupted_at,
    needs_fork,
    needs_posix,
    open_files,
    start_program,
    wait_until,
    workers,
)
from poollock import (
    BaseLock,
    DeadlockError,
    Lock,
    RLock,
    Semaphore,
    TaskTimeoutError,
    WorkerDiedError,
    locked_pool,
)
from poollock._supervisor import tracing
from poollock._trace import records
from poollock._trace.recorder import Recorder
from poollock._trace.records import CAPACITY, NEXT, RELEASED, TAKEN, TASK, RecordReader, split, words_for
from poollock._trace.summary import Summary, read_events
from poollock._trace.trace_file import TraceFile

Event = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def spans(path: Path, category: str = "task") -> list[Event]:
    """The spans of a trace whose program has ended well; each lies within another one, or beside it."""
    events: list[Event] = json.loads(path.read_text(encoding="utf-8"))
    found = [event for event in events if event["ph"] == "X"]
    for row in {event["tid"] for event in found}:
        open_until: list[float] = []
        for event in sorted((e for e in found if e["tid"] == row), key=lambda e: (e["ts"], -e["dur"])):
            end = event["ts"] + event["dur"]
            while open_until and open_until[-1] <= event["ts"] + 0.0015:  # times have three decimals
                open_until.pop()
            assert all(end <= outer + 0.0015 for outer in open_until), event
            open_until.append(end)
    return [event for event in found if event["cat"] == category]


def within(inner: Event, outer: Event) -> bool:
    """Whether one span lies in another one of the same row."""
    begins = outer["ts"] - 0.0015 <= inner["ts"]
    ends = inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 0.0015
    return bool(begins and ends and inner["tid"] == outer["tid"])


def marks(path: Path) -> list[str]:
    return [event["name"] for event in json.loads(path.read_text()) if event["ph"] == "i"]


@pytest.mark.parametrize("method", ONE_METHOD)
def test_each_task_and_each_hold(factory: Factory, method: str, path: Path) -> None:
    with factory(3, context=method, trace=path) as pool:
        assert pool.map(tasks.use, range(100), chunksize=1) == [*range(100)]
        assert pool.map(tasks.use, range(20), chunksize=10) == [*range(20)]
        pool.apply(tasks.use, (1,))
    found = spans(path)
    assert {(task["name"], task["args"]["ended"]) for task in found} == {("use", "ok")}
    single = [task for task in found if "item" in task["args"]]
    assert sorted(task["args"]["item"] for task in single) == [*range(100)]
    chunks = [task["args"]["items"] for task in found if "items" in task["args"]]
    assert sorted(chunks) == ["0 to 9", "10 to 19"]
    assert len(found) == 103
    holds = spans(path, "hold")
    assert len(holds) == 121
    assert {hold["args"]["lock"] for hold in holds} == {"lock"}
    assert all(any(within(hold, task) for task in found) for hold in holds)
    assert Counter(mark.split()[-1] for mark in marks(path)) == {"starts": 3, "end": 1}


def test_how_tasks_ended(path: Path) -> None:
    with locked_pool(2, trace=str(path)) as pool:
        results = pool.imap(tasks.fail, range(10))
        for number in range(10):
            if number % 2:
                with pytest.raises(ValueError, match=str(number)):
                    next(results)
            else:
                assert next(results) == number
    ended = {task["args"]["item"]: task["args"]["ended"] for task in spans(path)}
    assert ended == {number: "ValueError" if number % 2 else "ok" for number in range(10)}


@pytest.mark.parametrize("method", ONE_METHOD)
def test_killed_worker(factory: Factory, method: str, path: Path) -> None:
    with factory(2, context=method, trace=path) as pool:
        before = workers(pool)
        results = [pool.apply_async(tasks.kill_at, (number, 20)) for number in range(40)]
        for number, result in enumerate(results):
            if number != 20:
                assert result.get() == number
            else:
                with pytest.raises(WorkerDiedError):
                    result.get()
        wait_until(lambda: len(set(workers(pool)) - set(before)) == 1)
    found = spans(path)
    assert Counter(task["args"]["ended"] for task in found) == {"ok": 39, "WorkerDiedError": 1}
    (killed,) = [task for task in found if task["args"]["ended"] != "ok"]
    inner = [hold for hold in spans(path, "hold") if within(hold, killed)]
    assert [hold["args"]["lock"] for hold in inner] == ["lock"]  # from when it was taken to the death
    assert len(spans(path, "hold")) == 40
    said = marks(path)
    pid = killed["args"]["pid"]
    assert any(mark.startswith(f"worker {pid} ") and "SIGKILL" in mark for mark in said) or os.name == "nt"
    assert any(mark.endswith(f" replaces {pid}") for mark in said)


@pytest.mark.slow
def test_many_killed_workers(path: Path) -> None:
    """Each task is there once: what a worker recorded before it was killed is not lost."""
    count = 400
    with locked_pool(3, trace=path) as pool:
        results = [pool.apply_async(tasks.kill_at, (number, number // 10 * 10)) for number in range(count)]
        for number, result in enumerate(results):
            if number % 10:
                assert result.get() == number
            else:
                with pytest.raises(WorkerDiedError):
                    result.get()
    ended = Counter(task["args"]["ended"] for task in spans(path))
    assert ended == {"ok": count - count // 10, "WorkerDiedError": count // 10}
    assert len(spans(path, "hold")) == count


@needs_posix
def test_killed_task_begins_after_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the thread that asks two clocks when it began has to pause between them."""
    monkeypatch.setattr(tracing, "monotonic_ns", lambda: time.monotonic_ns() + 10**9)
    with locked_pool(1, trace=path) as pool:
        assert pool.apply(tasks.kill_at, (1, 0)) == 1
        for _ in range(2):
            with pytest.raises(WorkerDiedError):
                pool.apply(tasks.kill_at, (0, 0))
    ok, first, second = sorted(spans(path), key=lambda task: float(task["ts"]))
    assert ok["args"]["ended"] == "ok"
    assert first["ts"] + first["dur"] <= second["ts"] + 0.0015


@needs_posix
def test_task_timeout_and_deadlock(path: Path) -> None:
    with locked_pool(2, trace=path, task_timeout=0.5) as pool, pytest.raises(TaskTimeoutError):
        pool.apply(time.sleep, (60,))
    assert [task["args"]["ended"] for task in spans(path)] == ["TaskTimeoutError"]
    assert any(mark.startswith("task timeout: worker ") for mark in marks(path))

    with locked_pool(2, locks=("a", "b"), trace=path) as pool:
        results = [pool.apply_async(tasks.take_both, (first,), {"folder": path.parent}) for first in "ab"]
        ended = [None if _error(result.get) is None else "DeadlockError" for result in results]
    assert sorted(map(str, ended)) == ["DeadlockError", "None"]
    assert sorted(task["args"]["ended"] for task in spans(path)) == ["DeadlockError", "ok"]
    (told,) = [mark for mark in marks(path) if mark.startswith("deadlock: ")]
    assert re.fullmatch(r"deadlock: take_both waited for lock '[ab]'", told)
    waits = {wait["args"]["taken"]: wait for wait in spans(path, "wait")}
    assert waits.keys() == {True, False}


def _error(call: Callable[[], object]) -> DeadlockError | None:
    try:
        call()
    except DeadlockError as error:
        return error
    return None


def test_waits_and_counters(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker that pauses before it records may be later than that; then the counts come in another order.
    monkeypatch.setattr(tracing, "_LATE", 10**12)
    with locked_pool(2, trace=path) as pool:
        with pool.lock:
            results = [pool.apply_async(tasks.use, (number,)) for number in range(10)]
            wait_until(lambda: len(pool.lock_waits()) == 2)
        assert [result.get() for result in results] == [*range(10)]
    waits = spans(path, "wait")
    assert all(any(within(wait, task) for task in spans(path)) for wait in waits)
    assert all(wait["args"] == {"lock": "lock", "taken": True} for wait in waits)
    # lock_waits() says what has lasted for a second.
    assert len([wait for wait in waits if wait["dur"] > 1e6]) >= 2
    counters: dict[str, list[int]] = {}
    for event in sorted(json.loads(path.read_text()), key=lambda event: float(event.get("ts", 0))):
        if event["ph"] == "C":
            ((unit, count),) = event["args"].items()
            counters.setdefault(f"{event['name']} {unit}", []).append(count)
    assert counters.keys() == {"lock: waiters", "backlog: tasks"}
    waiting = counters["lock: waiters"]
    assert waiting[:3] == [1, 2, 1]
    assert waiting[-1] == 0
    assert {abs(a - b) for a, b in zip(waiting, [0, *waiting], strict=False)} == {1}
    assert 8 in counters["backlog: tasks"]
    assert counters["backlog: tasks"][-1] == 0


def test_more_records_than_fit(path: Path) -> None:
    with locked_pool(2, trace=path) as pool:
        pool.apply(tasks.take_many)
    assert len(spans(path, "hold")) == tasks.MORE_THAN_FIT


@pytest.mark.parametrize("function", [tasks.overlap, tasks.take_again, tasks.try_in_vain, tasks.keep])
def test_holds_of_each_form(factory: Factory, function: Any, path: Path) -> None:
    locks: dict[str, BaseLock] = {"a": Lock(), "b": Semaphore(2)} if function is tasks.overlap else {}
    locks = locks or {"lock": RLock() if function is tasks.take_again else Lock()}
    warns = pytest.warns(RuntimeWarning, match="ended while it held")
    with factory(1, locks=locks, trace=path) as pool:
        if function is tasks.try_in_vain:
            pool.lock.acquire()
            assert pool.apply(function) == [False, False, False]
            pool.lock.release()
        elif function is tasks.keep:
            with warns:
                pool.apply(function)
        else:
            pool.apply(function)
    held = {"overlap": ["a", "b"], "try_in_vain": []}.get(function.__name__, ["lock"])
    assert sorted(hold["args"]["lock"] for hold in spans(path, "hold")) == held
    assert len(spans(path, "wait")) == (function is tasks.try_in_vain)


def test_threads_and_own_locks(path: Path) -> None:
    with locked_pool(1, trace=path) as pool:
        pool.apply(tasks.in_threads)
        pool.apply(tasks.use_own_locks)
    holds = Counter(hold["args"]["lock"] for hold in spans(path, "hold"))
    assert holds == {"lock": 3, "locks made in workers": 2}
    rows = {hold["tid"] for hold in spans(path, "hold") if hold["args"]["lock"] == "lock"}
    assert 1 not in rows  # that of the main thread


@needs_fork
def test_what_a_task_forks_records_nothing(path: Path) -> None:
    with locked_pool(1, context="fork", trace=path) as pool:
        assert pool.apply(tasks.use_in_fork) == 0
    assert len(spans(path, "hold")) == 1


def test_no_trace_costs_no_import() -> None:
    program = "import trace_tasks as t; from poollock import locked_pool as p; x = p(1, context='fork'); "
    program += "print(x.apply(t.trace_modules) + t.trace_modules())"
    if sys.platform == "win32":
        program = "import trace_tasks as t, poollock._pool.pool; print(t.trace_modules())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment(TESTS / "trace"),
        check=True,
    )
    assert done.stdout == "[]\n"


def test_path_that_is_none(tmp_path: Path) -> None:
    children = multiprocessing.active_children()
    with pytest.raises(TypeError, match="trace must be a path or None, not 3"):
        locked_pool(1, trace=3)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(FileNotFoundError):
        locked_pool(1, trace=tmp_path / "no" / "run.json")
    with pytest.raises(OSError, match=r"directory|denied"):
        locked_pool(1, trace=tmp_path)
    assert multiprocessing.active_children() == children


@needs_posix
def test_disk_that_is_full(path: Path, tmp_path: Path) -> None:
    """Here, a file that may not grow.  The workers, which go on recording, must not wait for room."""
    program = tmp_path / "program.py"
    program.write_text(FULL)
    output, error = start_program(program, path, cwd=TESTS / "trace").communicate()
    assert output == f"{[*range(100)]}\n[None, None]\n"
    assert error.count("RuntimeWarning: the trace ") == 1
    assert "ends here: OSError: [Errno 27]" in error


FULL = """
import resource, signal, sys
sys.path.insert(0, "")
import trace_tasks as tasks
from poollock import locked_pool

if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with locked_pool(2, trace=sys.argv[1]) as pool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        print(pool.map(tasks.use, range(100), chunksize=1))
        results = [pool.apply_async(tasks.take_many) for _ in range(2)]
        print([result.get() for result in results])
"""


def test_odd_name_of_a_function(path: Path) -> None:
    with locked_pool(1, trace=path) as pool:
        assert pool.apply(tasks.Odd()) == 1
    assert [task["name"] for task in spans(path)] == ["['a', 'list']"]


def test_error_in_the_trace_ends_it_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TraceFile, "span")
    warns = pytest.warns(RuntimeWarning, match="ends here: AttributeError")
    with warns, locked_pool(2, trace=path) as pool:
        assert pool.map(tasks.use, range(20), chunksize=1) == [*range(20)]
        pool.apply(tasks.take_many)


@needs_posix
def test_pipe_is_no_trace(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="such device"):
        locked_pool(1, trace=path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="must be a file"):
        locked_pool(1, trace=path)
    os.close(reader)


def test_two_pools_cannot_write_one_trace(path: Path) -> None:
    path.write_text("something")
    with locked_pool(1, trace=path), pytest.raises(ValueError, match="another pool"):
        locked_pool(1, trace=path.parent / "." / path.name)
    with locked_pool(1, trace=path) as pool:
        assert pool.apply(tasks.use, (1,)) == 1
    assert len(spans(path)) == 1


@pytest.mark.filterwarnings("ignore:take_often ended:RuntimeWarning")
def test_lock_that_others_give_back(path: Path) -> None:
    """As multiprocessing allows: another worker, which records that; or this process, which does not."""
    with locked_pool(2, locks={"lock": Semaphore(1)}, trace=path) as pool:
        results = [pool.apply_async(task, (50,)) for task in (tasks.take_often, tasks.give_back_often)]
        assert [result.get() for result in results] == [None, None]
    assert len(spans(path, "hold")) == 50
    with locked_pool(1, trace=path) as pool:
        result = pool.apply_async(tasks.take_often, (5,))
        for _ in range(4):
            wait_until(lambda: pool.lock.holder != 0)  # it is taken, and that is on record
            pool.lock.release()
        result.get()
    assert len(spans(path, "hold")) == 5


@needs_posix
def test_nothing_is_left_open(path: Path) -> None:
    before = open_files()
    for _ in range(3):
        with locked_pool(2, trace=path) as pool:
            pool.map(tasks.use, range(10))
    assert not [name for name in open_files() - before if "run.json" in name]
    with locked_pool(1, trace=path) as pool:
        assert not [name for name in pool.apply(open_files) if "run.json" in name]


@needs_posix
def test_program_that_is_killed(path: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    process = start_program(program, path, cwd=TESTS / "trace")
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    process.kill()
    process.communicate()
    summary = Summary(read_events(str(path)))
    assert not summary.is_complete
    assert sum(worker.tasks for worker in summary.workers.values()) == 50


KILLED = """
import sys, time
sys.path.insert(0, "")
import trace_tasks as tasks
from poollock import locked_pool
from poollock._trace.summary import Summary, read_events

if __name__ == "__main__":
    pool = locked_pool(2, trace=sys.argv[1])
    pool.map(tasks.use, range(50), chunksize=1)
    while sum(worker.tasks for worker in Summary(read_events(sys.argv[1])).workers.values()) < 50:
        time.sleep(0.01)
    print("done", flush=True)
    time.sleep(60)
"""


# The records themselves, in one process.


@pytest.fixture
def reader() -> Iterator[RecordReader]:
    """The reader of a recorder that records what this process does."""
    made = RecordReader(*words_for(1))
    recorder = Recorder(made.words)
    recorder.start([])
    yield made
    recorder.stop()


@pytest.mark.parametrize("make", [Lock, RLock, lambda: Semaphore(1)])
def test_signal_handler_that_raises_at_each_step(
    make: Callable[[], BaseLock], reader: RecordReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, count = make(), 1

    def function() -> None:
        with lock:
            pass

    function()  # the first use takes other steps
    while interrupted_at(count, function):
        lock._release_if_held()  # as a worker does when the task has ended
        assert not lock.locked(), f"at step {count}"
        count += 1
    assert count > 50
    monkeypatch.setattr(records, "_PATIENCE", 0)
    for _ in range(1000):
        reader.take()  # each time it leaves a record that is missing and may still come
    function()
    assert [split(what)[1] for what, *_ in reader.take()] == [TAKEN, RELEASED]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("make", [Lock, RLock, lambda: Semaphore(1)])
def test_signal_handler_that_raises_while_a_lock_is_taken(make: Callable[[], BaseLock]) -> None:
    lock, count = make(), 1
    with lock:
        pass  # the first use takes other steps
    while handled_at(count, lock.acquire):
        assert not lock.locked(), f"at place {count}"
        count += 1
    lock.release()
    assert count > 5


def test_record_that_was_begun_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread has its number, and may not run for a while; or a signal handler has raised."""
    now = 0.0
    monkeypatch.setattr(records, "monotonic", lambda: now)
    reader = RecordReader(*words_for(1))
    recorder = Recorder(reader.words)
    recorder.add(TASK, 1, 0, 0)
    late = next(recorder._numbers)
    recorder.add(TASK, 2, 0, 0)
    assert [lock for _, lock, *_ in reader.take()] == [1]
    now = 0.4
    assert reader.take() == []
    records.write(reader.words.view, late, (TASK, 7, 0, 0))
    assert [lock for _, lock, *_ in reader.take()] == [7, 2]
    next(recorder._numbers)
    recorder.add(TASK, 3, 0, 0)
    assert reader.take() == []
    now = 1.0
    assert [lock for _, lock, *_ in reader.take()] == [3]
    next(recorder._numbers)
    recorder.add(TASK, 4, 0, 0)
    assert [lock for _, lock, *_ in reader.take(ended=True)] == [4]
    assert reader.take() == []
    after = Recorder(reader.words)  # of the worker that replaces it
    after.add(TASK, 5, 0, 0)
    assert [lock for _, lock, *_ in reader.take()] == [5]


def test_record_that_is_written_in_part() -> None:
    """The words of another process may be seen in any order, and those of an older record in between."""
    reader = RecordReader(*words_for(1))
    recorder = Recorder(reader.words)
    for number in range(CAPACITY):
        recorder.add(TASK, number, 5, 5)
        reader.take()
    view = reader.words.view
    before, place = [*view[8:13]], 8
    recorder.add(TASK, 9, 6, 6)
    after = [*view[8:13]]
    for old in range(1, 1 << 5):
        view[place : place + 5] = memoryview(
            array("q", [before[i] if old >> i & 1 else after[i] for i in range(5)])
        )
        if [*view[8:13]] != after:
            assert reader.take() == []
    view[place : place + 5] = memoryview(array("q", after))
    assert reader.take() == [(TASK, 9, 6, 6)]


def test_recorder_waits_for_room() -> None:
    reader = RecordReader(*words_for(1))
    recorder = Recorder(reader.words)
    for number in range(CAPACITY):
        recorder.add(TASK, number, 0, 0)
    reader.words.view[NEXT] += 1  # the pool has read one
    recorder.add(TASK, CAPACITY, 0, 0)
    assert [lock for _, lock, *_ in reader.take()] == [*range(1, CAPACITY + 1)]
