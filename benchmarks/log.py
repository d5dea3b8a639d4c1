"""What a record costs in a log of many processes, beside what a user would take instead.

    pip install -e '.[bench]' && python benchmarks/log.py [--rounds N] [--processes 1 4 16]
    python benchmarks/log.py --rounds 25 -- Locked "os.write"  # those with that in their names
    python benchmarks/log.py --json FILE  # writes the figures to a file, too

All of them take turns in each round, so that a busy machine slows all alike.  In each turn every
process writes its records, and the turn ends when all of them are in the file.  A figure is the
median over the rounds of the microseconds for one record; in brackets least and most.  The ratios
are of figures of the same round.
"""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_UN, flock
from functools import partial
from importlib import import_module
from os import stat, write
from pathlib import Path
from typing import Any, NamedTuple

from figures import save
from poollock import LockedLogHandler, LockedLogWriter

RECORD = "request 12345 of 20000 cost: 0.012345, as a log line has it\n"
CONTEXT: Any = multiprocessing.get_context("fork")


class Peer(NamedTuple):
    """Something that writes a log.

    Attributes:
        name: What the table calls it.
        make: Called in each process with the path of the log: returns what writes one record.
        slow: How many times fewer records it writes, so that a round does not last for ever.
        drain: Called in the main process: returns once all that was written is in the file.
    """

    name: str
    make: Callable[[str], Callable[[], object]]
    slow: int = 1
    drain: Callable[[int], None] | None = None


def ours(path: str, **options: Any) -> Callable[[], object]:
    log = LockedLogWriter(path, **options)
    return partial(log.write, RECORD)


def rotating(path: str) -> Callable[[], object]:
    return ours(path, max_bytes=1 << 20, backup_count=3)


def floor(path: str) -> Callable[[], object]:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    data = RECORD.encode()

    def record() -> None:
        flock(fd, LOCK_EX)
        stat(path)
        write(fd, data)
        flock(fd, LOCK_UN)

    return record


def under(lock: Any) -> Callable[[str], Callable[[], object]]:
    def make(path: str) -> Callable[[], object]:
        def record() -> None:
            with lock, open(path, "a", encoding="utf-8") as file:
                file.write(RECORD)

        return record

    return make


def under_filelock(path: str) -> Callable[[], object]:
    return under(import_module("filelock").FileLock(f"{path}.lock"))(path)


def under_portalocker(path: str) -> Callable[[], object]:
    portalocker = import_module("portalocker")

    def record() -> None:
        with portalocker.Lock(path, "a", flags=portalocker.LOCK_EX) as file:
            file.write(RECORD)

    return record


def logged(make_handler: Callable[[str], logging.Handler]) -> Callable[[str], Callable[[], object]]:
    def make(path: str) -> Callable[[], object]:
        handler = make_handler(path)
        handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
        logger = logging.Logger("requests", logging.INFO)  # noqa: LOG001 - for this process and peer alone
        logger.addHandler(handler)
        return lambda: logger.info("request %d of %d cost: %.6f, as a log line", 12345, 20000, 0.012345)

    return make


def logged_by(loguru: Any) -> Callable[[str], Callable[[], object]]:
    return lambda _: partial(loguru.info, RECORD[:-1])


def wait_for(loguru: Any) -> Callable[[int], None]:
    def drain(_: int) -> None:
        loguru.complete()

    return drain


def concurrent(path: str) -> logging.Handler:
    module = import_module("concurrent_log_handler")
    handler: logging.Handler = module.ConcurrentRotatingFileHandler(path, "a", 1 << 30, 3)
    return handler


class Listener:
    """The standard library's way: a queue, and one process that writes for all."""

    def __init__(self, path: str) -> None:
        self.queue = CONTEXT.Queue()
        self.handler = logging.FileHandler(path)
        self.seen = 0
        self.listener = logging.handlers.QueueListener(self.queue, self)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        self.listener.start()

    level = 0

    def handle(self, record: logging.LogRecord) -> None:
        self.handler.handle(record)
        self.seen += 1

    def sender(self, _: str) -> logging.Handler:
        return logging.handlers.QueueHandler(self.queue)

    def drain(self, count: int) -> None:
        while self.seen < count:
            time.sleep(0.0002)
        self.seen = 0


def peers(directory: Path) -> tuple[list[Peer], Callable[[], None]]:
    loguru = import_module("loguru").logger
    loguru.remove()
    loguru.add(directory / "loguru", enqueue=True, format="{message}", context="fork")
    listener = Listener(str(directory / "listener"))
    manager = CONTEXT.Manager()

    def end() -> None:
        loguru.remove()
        listener.listener.stop()
        manager.shutdown()

    return [
        Peer("lock + stat + os.write", floor),
        Peer("LockedLogWriter.write", ours),
        Peer("the same, rotating at 1 MiB", rotating),
        Peer("logging.FileHandler, unsafe", logged(logging.FileHandler)),
        Peer("LockedLogHandler", logged(LockedLogHandler)),
        Peer("open, append, close under a Lock", under(CONTEXT.Lock()), 5),
        Peer("the same under a manager's", under(manager.Lock()), 20),
        Peer("filelock around an append", under_filelock, 20),
        Peer("portalocker around an append", under_portalocker, 20),
        Peer("QueueHandler and listener", logged(listener.sender), 10, listener.drain),
        Peer("concurrent-log-handler", logged(concurrent), 20),
        Peer("loguru, enqueue=True", logged_by(loguru), 20, wait_for(loguru)),
    ], end


RATIOS = [
    ("LockedLogWriter.write", "lock + stat + os.write"),
    ("the same, rotating at 1 MiB", "LockedLogWriter.write"),
    ("LockedLogHandler", "logging.FileHandler, unsafe"),
    ("concurrent-log-handler", "LockedLogHandler"),
    ("loguru, enqueue=True", "LockedLogHandler"),
]


def work(competitors: list[Peer], directory: Path, rounds: int, count: int, barrier: Any) -> None:
    records = [(peer, peer.make(str(directory / peer.name.replace(" ", "_")))) for peer in competitors]
    for _ in range(rounds):
        for peer, record in records:
            barrier.wait()
            for _ in range(count // peer.slow):
                record()
            barrier.wait()


def run(processes: int, rounds: int, names: list[str]) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name:
        competitors, end = peers(Path(name))
        competitors = [peer for peer in competitors if any(part in peer.name for part in names)]
        figures = measure(competitors, Path(name), processes, rounds)
        end()
    print(f"\n{processes} process{'es' if processes > 1 else ''}{'µs a record':>34}")
    for peer_name, costs in figures.items():
        print(f"{peer_name:34}{spread(costs, 2)}")
    for one, other in RATIOS:
        if figures.keys() >= {one, other}:
            ratios = [a / b for a, b in zip(figures[one], figures[other], strict=True)]
            print(f"    {one} / {other}: {spread(ratios, 2)}")
    sys.stdout.flush()
    return figures


def measure(competitors: list[Peer], directory: Path, processes: int, rounds: int) -> dict[str, list[float]]:
    count = 20_000 // processes
    # Those that others write for start threads, which is a cost for whoever shares their processes.
    groups = [[peer for peer in competitors if bool(peer.drain) is drains] for drains in (False, True)]
    barriers = [CONTEXT.Barrier(processes + 1) for _ in groups]
    workers = [
        CONTEXT.Process(target=work, args=(group, directory, rounds, count, barrier))
        for group, barrier in zip(groups, barriers, strict=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    figures: dict[str, list[float]] = {peer.name: [] for peer in competitors}
    turns = [(peer, barrier) for group, barrier in zip(groups, barriers, strict=True) for peer in group]
    for _ in range(rounds):
        for peer, barrier in turns:
            barrier.wait()
            start = time.perf_counter()
            barrier.wait()
            written = processes * (count // peer.slow)
            if peer.drain:
                peer.drain(written)
            figures[peer.name].append((time.perf_counter() - start) / written * 1e6)
            for file in directory.iterdir():
                os.truncate(file, 0)
    for worker in workers:
        worker.join()
    return figures


def spread(figures: list[float], digits: int) -> str:
    middle, least, most = statistics.median(figures), min(figures), max(figures)
    return f"{middle:10.{digits}f}  [{least:.{digits}f} to {most:.{digits}f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("names", nargs="*", default=[""], help="parts of the names of those to be measured")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, too, for docs/draw.py")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {multiprocessing.cpu_count()} cores, {platform.platform()}")
    microseconds = {number: run(number, options.rounds, options.names) for number in options.processes}
    if options.json:
        save(
            options.json,
            {
                number: {name: [1000 * cost for cost in costs] for name, costs in names.items()}
                for number, names in microseconds.items()
            },
        )
