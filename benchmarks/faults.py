"""What each pool does when something happens to one of its workers, as a Markdown table.

    pip install -e '.[bench]' && python benchmarks/faults.py [--method spawn] [--times N]
    python benchmarks/faults.py --only pebble joblib -- idle initializer  # parts of their names

Every cell is a program of its own, in a process group of its own, which does it to a pool of two
workers and reports what its caller sees; several of them run at once, for some events are a race.
What has no result by the time limit hangs, and is killed.  A cell says:

- which exceptions the caller got, or that a result never came;
- how many of the other tasks of the same pool gave their results;
- whether one more task, given afterwards in the same way, is done;
- that the program does not end, where it hangs while it closes its pool.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib import import_module, metadata
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, NamedTuple, NoReturn

from figures import machine

WORKERS = 2
TASKS = 20
VICTIM = 7
HUNDRED_MB = 100 << 20
HANGS = "hangs"

Task = Callable[..., object]
Initializer = Callable[[], object]
# Runs tasks until a time: gives the result of each, its exception, or HANGS.
Run = Callable[[Sequence[Task], float], Iterator[object]]


# What the workers run; a task is called with its number, after the lock where the event has one.


def nap(number: int) -> int:
    time.sleep(0.02)
    return number


def hold(lock: Any, number: int) -> int:
    with lock:
        return nap(number)


def own_pid(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def kill(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: int) -> NoReturn:
    os._exit(0)


def kill_holding(lock: Any, number: int) -> None:
    with lock:
        kill(number)


def kill_sending(_: int) -> bytes:
    """Return what no pipe has room for, while the pool's process is stopped; be killed when it goes on."""
    pool = int(os.environ["POOL_PID"])

    def end() -> None:
        time.sleep(1)
        os.kill(pool, signal.SIGCONT)
        os.kill(os.getpid(), signal.SIGKILL)

    os.kill(pool, signal.SIGSTOP)
    Thread(target=end).start()
    return bytes(HUNDRED_MB)


def fail() -> NoReturn:
    raise ValueError("as ordered")


class Unloadable:
    def __reduce__(self) -> Any:
        return fail, ()


def unloadable(_: int) -> Unloadable:
    return Unloadable()


kept: list[Any] = []


def keep(lock: Any) -> None:
    kept.append(lock)


def with_kept(task: Task, number: int) -> object:
    return task(kept[0], number)


def call(task: Task, number: int) -> object:
    return task(number)


def call_with(lock: Any, task: Task, number: int) -> object:
    return task(lock, number)


class Event(NamedTuple):
    """What is done to a worker.

    Attributes:
        name: What the table calls it.
        victim: The task in whose worker it happens.
        idle: Whether it happens to a worker that has no task.
        initializer: What each worker calls when it starts.
        task: What the other tasks do.
        locked: Whether the tasks share a lock.
    """

    name: str
    victim: Task | None = None
    idle: bool = False
    initializer: Initializer | None = None
    task: Task = nap
    locked: bool = False

    @property
    def tasks(self) -> list[Task]:
        tasks = [self.task] * TASKS
        if self.victim is not None:
            tasks[VICTIM] = self.victim
        return tasks

    @property
    def others(self) -> int:
        """How many tasks could be done."""
        return 0 if self.initializer else self.tasks.count(self.task)


EVENTS = [
    Event("a busy worker is killed", kill),
    Event("a task calls `os._exit(0)`", leave),
    Event("an idle worker is killed", idle=True),
    Event("a worker is killed while it holds the lock", kill_holding, task=hold, locked=True),
    Event("a worker is killed while it sends 100 MB", kill_sending),
    Event("the initializer raises", initializer=fail),
    Event("a result cannot be unpickled", unloadable),
]


# The libraries, each used in the way of its users.


def by_one(submit: Callable[[Task, int], Callable[[float], object]]) -> Run:
    """Run tasks that are submitted one by one; what *submit* returns waits for the result."""

    def run(tasks: Sequence[Task], until: float) -> Iterator[object]:
        waits: list[Callable[[float], object]] = []
        for number, task in enumerate(tasks):
            try:
                waits.append(submit(task, number))
            except Exception as error:
                yield error
        for wait in waits:
            try:
                yield wait(max(until - time.monotonic(), 0))
            except (TimeoutError, FutureTimeoutError, multiprocessing.TimeoutError):
                yield HANGS
            except Exception as error:
                yield error

    return run


def by_call(call: Callable[[Sequence[Task]], Iterator[object]]) -> Run:
    """Run tasks in one call, which is over with its first error; a generator has given what came before."""

    def run(tasks: Sequence[Task], _: float) -> Iterator[object]:
        try:
            yield from call(tasks)
        except Exception as error:
            yield error

    return run


def initial(event: Event, context: Any) -> tuple[Any, tuple[Any, ...]]:
    """The initializer of a pool that does nothing for locks, and its arguments."""
    return (keep, (context.Lock(),)) if event.locked else (event.initializer, ())


def reaching(event: Event, task: Task) -> Task:
    """The task, with the lock that the initializer has kept."""
    return partial(with_kept, task) if event.locked else task


@contextmanager
def standard_pool(event: Event, context: Any) -> Generator[Run]:
    with context.Pool(WORKERS, *initial(event, context)) as pool:
        yield by_one(lambda task, number: pool.apply_async(reaching(event, task), (number,)).get)


@contextmanager
def executor(event: Event, context: Any) -> Generator[Run]:
    with ProcessPoolExecutor(WORKERS, context, *initial(event, context)) as pool:
        yield by_one(lambda task, number: pool.submit(reaching(event, task), number).result)


@contextmanager
def pebble_pool(event: Event, context: Any) -> Generator[Run]:
    pebble = import_module("pebble")
    with pebble.ProcessPool(WORKERS, 0, *initial(event, context), context) as pool:
        yield by_one(lambda task, number: pool.schedule(reaching(event, task), (number,)).result)


@contextmanager
def joblib_parallel(event: Event, context: Any) -> Generator[Run]:
    joblib = import_module("joblib")
    options: dict[str, Any] = {"initializer": event.initializer} if event.initializer else {}
    parallel = partial(joblib.Parallel, WORKERS, return_as="generator_unordered", batch_size=1, **options)
    lock = (context.Manager().Lock(),) if event.locked else ()
    yield by_call(
        lambda tasks: parallel()(joblib.delayed(task)(*lock, number) for number, task in enumerate(tasks))
    )


@contextmanager
def mpire_pool(event: Event, context: Any) -> Generator[Run]:
    lock = context.Lock() if event.locked else None
    options: dict[str, Any] = {"worker_init": event.initializer, "chunk_size": 1}
    make = partial(import_module("mpire").WorkerPool, start_method=context.get_start_method())
    # Left to itself it ends its workers after each call, and none is ever idle.
    with make(WORKERS, shared_objects=lock, keep_alive=event.idle) as pool:
        yield by_call(
            lambda tasks: pool.imap_unordered(
                call_with if event.locked else call,
                [(task, number) for number, task in enumerate(tasks)],
                **options,
            )
        )


@contextmanager
def our_pool(factory: str, event: Event, context: Any) -> Generator[Run]:
    # A task that has a parameter called lock is given the pool's.
    with getattr(import_module("poollock"), factory)(WORKERS, event.initializer, context=context) as pool:
        yield by_one(lambda task, number: pool.apply_async(task, (number,)).get)


class Library(NamedTuple):
    package: str | None
    make: Callable[[Event, Any], AbstractContextManager[Run]]


LIBRARIES = {
    "poollock.locked_pool": Library("poollock", partial(our_pool, "locked_pool")),
    "poollock.manager_locked_pool": Library("poollock", partial(our_pool, "manager_locked_pool")),
    "multiprocessing.Pool": Library(None, standard_pool),
    "ProcessPoolExecutor": Library(None, executor),
    "pebble.ProcessPool": Library("pebble", pebble_pool),
    "joblib.Parallel": Library("joblib", joblib_parallel),
    "mpire.WorkerPool": Library("mpire", mpire_pool),
}


# One cell: a program that makes a pool, and writes down what its caller sees.


def word(outcome: object) -> str:
    if isinstance(outcome, Exception):
        return type(outcome).__name__
    if outcome == HANGS:
        return HANGS
    assert isinstance(outcome, int), "the victim was not hit"
    return "done"


def kill_idle(run: Run, index: int) -> None:
    pids = sorted(
        {pid for pid in run([own_pid] * WORKERS * 3, time.monotonic() + 10) if isinstance(pid, int)}
    )
    assert len(pids) == WORKERS
    time.sleep(0.5)
    os.kill(pids[index % WORKERS], signal.SIGKILL)
    time.sleep(0.5)


def cell(library: str, event_name: str, method: str, index: int, seconds: float) -> None:
    """Do it, and write to *report* a line for each thing that the caller learns."""
    # Outside of the process group that is killed in the end, it takes away the semaphores.
    resource_tracker.ensure_running()
    os.setsid()
    os.environ["POOL_PID"] = str(os.getpid())
    event = next(event for event in EVENTS if event.name == event_name)
    context = multiprocessing.get_context(method)
    seen: set[str] = set()
    with open("report", "a", buffering=1) as file, LIBRARIES[library].make(event, context) as run:
        if event.idle:
            kill_idle(run, index)
        for outcome in run(event.tasks, time.monotonic() + 0.6 * seconds):
            print("task", word(outcome), file=file)
            seen.add(word(outcome))
        for outcome in run([event.task], time.monotonic() + 0.2 * seconds):
            print("after", word(outcome), file=file)
            seen.add(word(outcome))
        if HANGS in seen:  # whether such a pool can be closed is another question
            os._exit(0)


class Seen(NamedTuple):
    """What the caller saw in one run of a cell.

    Attributes:
        hangs: Whether a task had no result.
        errors: The exceptions of tasks.
        done: How many tasks gave their results.
        after: What came of the task afterwards; empty if it never came to that.
        ends: Whether the program ended.
    """

    hangs: bool
    errors: tuple[str, ...]
    done: int
    after: str
    ends: bool


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process group; loky's tracker, which ignores SIGTERM, tidies up before."""
    with suppress(ProcessLookupError):
        for number in (signal.SIGTERM, signal.SIGCONT):
            os.killpg(leader.pid, number)
        for _ in range(50):
            time.sleep(0.02)
            leader.poll()
            os.killpg(leader.pid, 0)
        os.killpg(leader.pid, signal.SIGKILL)
    leader.kill()
    leader.wait()


def observe(library: str, event: Event, method: str, index: int, seconds: float) -> Seen:
    path = [os.path.dirname(__file__), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with TemporaryDirectory() as directory:
        report, errors = Path(directory, "report"), Path(directory, "errors")
        program = f"import faults; faults.cell({library!r}, {event.name!r}, {method!r}, {index}, {seconds})"
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, path)),
                    "TMPDIR": directory,
                    "JOBLIB_TEMP_FOLDER": directory,
                },
            )
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                ends = process.poll() is not None
            finally:
                end_group(process)
        lines = report.read_text().splitlines() if report.exists() else []
        if ends and not any(line.startswith("after") for line in lines):
            raise RuntimeError(f"{library}: {event.name}: {errors.read_text()}")
    return seen(lines, ends=ends)


def seen(lines: list[str], *, ends: bool) -> Seen:
    tasks = [line.split()[1] for line in lines if line.startswith("task ")]
    after = [line.split()[1] for line in lines if line.startswith("after ")]
    raised = tuple(dict.fromkeys(task for task in tasks if task not in ("done", HANGS)))
    if not after and (
        raised or len(tasks) == TASKS
    ):  # else it hangs in one call for all, and there is no next
        after = [HANGS]
    return Seen(HANGS in tasks or not after, raised, tasks.count("done"), "".join(after), ends)


def some(count: int, times: int) -> str:
    return "" if count == times else f" ({count} of {times} times)"


def text(event: Event, runs: list[Seen]) -> str:
    times = len(runs)
    parts: list[str] = []
    if count := sum(run.hangs for run in runs):
        parts.append(f"**hangs**{some(count, times)}")
    errors = [error for run in runs for error in run.errors]
    parts += [name + some(errors.count(name), times) for name in dict.fromkeys(errors)]
    if event.others:
        least, most = min(run.done for run in runs), max(run.done for run in runs)
        figure = f"{least}" if least == most else f"{least} to {most}"
        others = "others " if event.victim else ""
        parts.append(
            f"all {others}done" if least == event.others else f"{figure} of {event.others} {others}done"
        )
        afters = [run.after for run in runs if run.after]
        for after in dict.fromkeys(afters):
            said = {"done": "pool goes on", HANGS: "the next task hangs"}.get(after, "pool broken")
            if said == "pool broken" and after not in errors:
                said += f": {after}"
            parts.append(said + some(afters.count(after), len(afters)))
    if count := sum(not run.ends and not run.hangs and run.after != HANGS for run in runs):
        parts.append(f"the program does not end{some(count, times)}")
    return ", ".join(parts)


def version(package: str | None) -> str | None:
    """The version that is installed, if it is one that can be."""
    if package is None:
        return ""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Do harm to the workers of each pool; print what came of it."
    )
    parser.add_argument("events", nargs="*", default=[""], help="parts of the names of events; left out, all")
    parser.add_argument("--only", nargs="+", default=[""], metavar="LIBRARY", help="parts of their names")
    parser.add_argument("--method", default="fork", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--times", type=int, default=5, help="how many times each is done (default: 5)")
    parser.add_argument("--limit", type=float, default=15, help="seconds for one program (default: 15)")
    options = parser.parse_args()
    libraries = [name for name in LIBRARIES if any(part in name for part in options.only)]
    events = [event for event in EVENTS if any(part in event.name for part in options.events)]
    sections: list[str] = []
    for event in events:
        sections.append(
            f"\n## {event.name[0].upper()}{event.name[1:]}\n\n| the pool | what came of it |\n|---|---|"
        )
        for name in libraries:
            said = "not installed"
            if version(LIBRARIES[name].package) is not None:
                with ThreadPoolExecutor() as at_once:
                    runs = [
                        at_once.submit(observe, name, event, options.method, index, options.limit)
                        for index in range(options.times)
                    ]
                said = text(event, [run.result() for run in runs])
            sections.append(f"| `{name}` | {said} |")
            print(f"{event.name}: {name}: {said}", file=sys.stderr)
    print("\n".join(sections))
    packages = dict.fromkeys(package for name in libraries if (package := LIBRARIES[name].package))
    versions = ", ".join(f"{package} {version(package) or 'not installed'}" for package in packages)
    print("\n## How it was measured\n")
    print(f"Start method {options.method} (joblib: its own, loky), {WORKERS} workers, {TASKS} tasks.")
    print(f"Each event {options.times} times, {options.limit:g} s for each. {versions}.")
    print(f"{machine()}.")


if __name__ == "__main__":
    main()
