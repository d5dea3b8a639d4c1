"""What ``trace=`` costs: the same pool with it and without, by turns in one run.

    python benchmarks/tracing.py [--rounds 9] [--workers 2]

Prints the time for each task without it, and the ratio of the times: minimum, median, maximum.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import machine
from poollock import Lock, locked_pool

COUNT = 20_000


def nothing(_: int) -> None:
    """Do nothing: the least task there is."""


def take(lock: Lock, _: int) -> None:
    with lock:
        pass


def short(_: int) -> None:
    time.sleep(0.001)


WORK: dict[str, tuple[int, Callable[[Any], object]]] = {
    "a task that does nothing, map(chunksize=1)": (
        COUNT,
        lambda pool: pool.map(nothing, range(COUNT), chunksize=1),
    ),
    "a task that takes a lock, map(chunksize=1)": (
        COUNT,
        lambda pool: pool.map(take, range(COUNT), chunksize=1),
    ),
    "an item that does nothing, map": (COUNT, lambda pool: pool.map(nothing, range(COUNT))),
    "an item that takes a lock, map": (COUNT, lambda pool: pool.map(take, range(COUNT))),
    "a task of 1 ms": (500, lambda pool: pool.map(short, range(500), chunksize=1)),
}


def measure(work: Callable[[Any], object], workers: int, trace: Path | None) -> float:
    """Return how many seconds *work* took."""
    with locked_pool(workers, trace=trace) as pool:
        pool.map(nothing, range(100), chunksize=1)
        begin = time.perf_counter()
        work(pool)
        return time.perf_counter() - begin


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(f"{machine()}; {options.workers} workers, {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "run.json")
        for name, (count, work) in WORK.items():
            without: list[float] = []
            ratios: list[float] = []
            for _ in range(options.rounds):
                seconds = measure(work, options.workers, None)
                without.append(seconds)
                ratios.append(measure(work, options.workers, trace) / seconds)
            micros = statistics.median(without) / count * 1e6
            spread = f"{min(ratios):.2f} {statistics.median(ratios):.2f} {max(ratios):.2f}"
            print(f"{name:45} {micros:8.1f} us {spread}")


if __name__ == "__main__":
    main()
