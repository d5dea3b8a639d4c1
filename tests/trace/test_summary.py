"""python -m poollock trace: what it says of a job whose waits are known, and of files that are no traces."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trace_tasks as tasks

from helpers import environment, wait_until, workers
from poollock import WorkerDiedError, locked_pool
from poollock._trace.summary import Summary, read_events


def summarize(path: Path, columns: int = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "poollock", "trace", str(path)],
        capture_output=True,
        text=True,
        env=environment(COLUMNS=str(columns)),
        check=False,
    )


def test_job_whose_waits_are_known(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with locked_pool(3, locks=("api", "log"), trace=path) as pool:
        with pool.locks["api"]:
            api = [pool.apply_async(tasks.wait_and_sleep, (pool.locks["api"], 0.2)) for _ in range(6)]
            wait_until(lambda: len(pool.lock_waits()) == 3)  # each has lasted for a second
        measured = [result.get() for result in api]
        pool.apply(tasks.use, (pool.locks["log"], 1))
    summary = Summary(read_events(str(path)))
    use = summary.locks["api"]
    assert use.taken == 6
    assert use.held >= 6 * 0.2
    # The tasks measured their waits around what was recorded, and their holds within it.
    assert use.waited <= sum(waited for waited, _ in measured)
    assert use.held >= sum(held for _, held in measured)
    assert use.waited >= 3
    assert use.longest_wait.task == "wait_and_sleep"
    assert summary.locks["log"].taken == 1
    assert summary.seconds >= 6 * 0.2
    for worker in summary.workers.values():
        times = worker.busy + worker.waiting + summary.idle(worker)
        assert times == pytest.approx(summary.seconds, abs=1e-4)
    assert sum(worker.waiting for worker in summary.workers.values()) == pytest.approx(use.waited)
    said = summarize(path)
    assert said.stderr == ""
    assert re.search(r"longest wait for api: \d.* m?s, wait_and_sleep", said.stdout)


def written(path: Path, *spans: tuple[int, str, str, float, float]) -> str:
    """What is said of a file with these spans: row, category, lock or function, and two times in seconds."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "tid": 0, "args": {"name": "program", "poollock": 1}}
    ]
    events += [{"name": "thread_name", "tid": row, "args": {"name": f"worker {row}"}} for row in (1, 2)]
    events = [{**event, "ph": "M", "pid": 1} for event in events]
    for row, category, name, begin, end in spans:
        args = {"ended": "ok", "pid": row} if category == "task" else {"lock": name, "taken": True}
        times = {"ts": begin * 1e6, "dur": (end - begin) * 1e6}
        events.append({"name": name, "cat": category, "ph": "X", "pid": 1, "tid": row, **times, "args": args})
    path.write_text("[\n" + "".join(f"{json.dumps(event)},\n" for event in events))
    said = summarize(path)
    assert said.stderr == ""
    return said.stdout


def test_bottleneck(tmp_path: Path) -> None:
    wait, use = (1, "wait", "api", 0, 6), (1, "task", "work", 0, 8)
    other = [(2, "hold", "api", 0, 6), (2, "task", "work", 0, 8)]
    said = written(tmp_path / "waits.json", wait, use, *other)
    assert "The bottleneck is 'api': 38% of the workers' time was waiting for it" in said
    assert "longest wait for api: 6 s, work" in said
    said = written(tmp_path / "works.json", use, *other)
    assert "No lock is a bottleneck" in said
    said = written(tmp_path / "idles.json", use, (2, "hold", "api", 0, 0.1), (2, "task", "work", 0, 0.1))
    assert "No lock is the bottleneck: for 49% of their time the workers had no task." in said


def test_what_else_happened(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with locked_pool(2, trace=path) as pool:
        before = workers(pool)
        with pytest.raises(WorkerDiedError) as caught:
            pool.map(tasks.kill_at_3, range(5), chunksize=1)
        wait_until(
            lambda: set(workers(pool)) - set(before) != set() and caught.value.pid not in workers(pool)
        )
    said = summarize(path, 90).stdout
    assert " while it ran kill_at_3, item 3, and had lock" in said
    assert re.search("longest hold of lock: .*, kill_at_3, item ", said)
    assert " replaces " not in said  # that is in the picture
    assert "No lock is" in said or "The bottleneck is" in said
    assert all(len(line) <= 90 for line in said.splitlines()[-3:])


def test_nothing_was_done(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with locked_pool(1, trace=path):
        pass
    said = summarize(path)
    assert "No lock was taken." in said.stdout
    assert "No task has ended." in said.stdout


@pytest.mark.parametrize("text", ["", "{}", "[\n1,\n2\n]", '[\n{"name": "x"}\n]\n', "[\nnonsense,\n"])
def test_file_that_is_no_trace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    said = summarize(path)
    assert said.returncode == 1
    assert "is not a trace that a pool has written" in said.stderr
    assert "Traceback" not in said.stderr


def test_file_that_is_not_there(tmp_path: Path) -> None:
    said = summarize(tmp_path / "run.json")
    assert said.returncode == 1
    assert "No such file" in said.stderr


def test_line_that_was_being_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with locked_pool(1, trace=path) as pool:
        pool.apply(tasks.fail, (2,))
    text = path.read_text()
    path.write_text(text[: text.index('"cat":"task"')])
    summary = Summary(read_events(str(path)))
    assert not summary.is_complete
    assert "the program has not written the end" in summary.lines(80)[0]
