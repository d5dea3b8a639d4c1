"""What a pool costs, beside ``multiprocessing.pool.Pool``, by turns in one run.

    python benchmarks/pool.py [--rounds 7] [--workers 2 4 16] [name of the work ...]

Prints the ratio of the times, locked_pool to the standard pool: minimum, median, maximum.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from poollock import locked_pool

MEGABYTE = 1 << 20


def nothing(_: object) -> None:
    """Do nothing: what is measured is the pool."""


def megabyte(_: int) -> bytes:
    return bytes(MEGABYTE)


def ten_kilobytes(_: int) -> bytes:
    return bytes(10_000)


def sleep(seconds: float) -> bool:
    if seconds:
        time.sleep(seconds)
    return True


def uneven(lengths: list[float]) -> Callable[[Any], object]:
    return lambda pool: all(pool.imap_unordered(sleep, lengths))


def exponential(count: int, mean: float) -> list[float]:
    generator = random.Random(1)
    return [generator.expovariate(1 / mean) for _ in range(count)]


def with_long_ones(count: int, every: int) -> list[float]:
    return [0.1 if number % every == 7 else 0.0 for number in range(count)]


WORK: dict[str, Callable[[Any], object]] = {
    "20,000 tasks by map(chunksize=1)": lambda pool: pool.map(nothing, range(20_000), chunksize=1),
    "20,000 tasks by imap_unordered": lambda pool: deque(pool.imap_unordered(nothing, range(20_000)), 0),
    "a million items by map": lambda pool: pool.map(nothing, range(1_000_000)),
    "5,000 results of 10 kB": lambda pool: deque(pool.imap_unordered(ten_kilobytes, range(5_000)), 0),
    "200 results of 1 MB": lambda pool: deque(pool.imap_unordered(megabyte, range(200)), 0),
    "200 arguments of 1 MB": lambda pool: pool.map(nothing, [bytes(MEGABYTE)] * 200, chunksize=1),
    "2,000 apply": lambda pool: [pool.apply(nothing, (0,)) for _ in range(2_000)],
    "one of 2 s among 200 of 10 ms": uneven([0.01] * 100 + [2.0] + [0.01] * 100),
    "9 of 1 s": uneven([1.0] * 9),
    "exponential lengths": uneven(exponential(400, 0.005)),
    "tiny ones with a few long": uneven(with_long_ones(4_000, 400)),
    "tiny ones, then long": uneven([0.0] * 2_000 + [0.2] * 16),
}
# What the pool has done before the time is taken.
BEFORE: dict[str, Callable[[Any], object]] = {
    "100 results of 1 MB after tiny tasks": lambda pool: pool.map(nothing, range(100_000), chunksize=1),
}
WORK.update({name: lambda pool: deque(pool.imap_unordered(megabyte, range(100)), 0) for name in BEFORE})
STARTS = {
    f"starting and stopping, {method}": method
    for method in ("fork", "spawn", "forkserver")
    if method in multiprocessing.get_all_start_methods()
}


def warm_up(pool: Any) -> None:
    """Have each worker run some tasks."""
    pool.map(nothing, range(4 * pool._processes), chunksize=1)


def seconds(
    work: Callable[[Any], object], before: Callable[[Any], object], make: Callable[..., Any], workers: int
) -> float:
    with make(workers) as pool:
        before(pool)
        begun = time.perf_counter()
        work(pool)
        return time.perf_counter() - begun


def start_seconds(method: str, make: Callable[..., Any], workers: int) -> float:
    begun = time.perf_counter()
    with make(workers, context=multiprocessing.get_context(method)) as pool:
        pool.apply(nothing, (0,))
    return time.perf_counter() - begun


def standard_pool(workers: int, context: Any = multiprocessing) -> Any:
    return context.Pool(workers)


def compare(measure: Callable[[Callable[..., Any], int], float], workers: int, rounds: int) -> list[float]:
    ratios: list[float] = []
    for number in range(rounds):
        makes: list[Callable[..., Any]] = [locked_pool, standard_pool]
        times = {make: measure(make, workers) for make in (makes if number % 2 else makes[::-1])}
        ratios.append(times[locked_pool] / times[standard_pool])
    return sorted(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time locked_pool beside multiprocessing.pool.Pool.")
    parser.add_argument("works", nargs="*", help="parts of names of the work; left out, all of it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4, 16])
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, {platform.platform()}, {multiprocessing.cpu_count()} processors"
    )
    print(f"{'ratio to multiprocessing.pool.Pool':38} workers   min  median   max")
    for name in [*WORK, *STARTS]:
        if options.works and not any(part in name for part in options.works):
            continue
        for workers in options.workers:
            if name in STARTS:
                measure = partial(start_seconds, STARTS[name])
            else:
                measure = partial(seconds, WORK[name], BEFORE.get(name, warm_up))
            ratios = compare(measure, workers, options.rounds)
            low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
            print(f"{name:38} {workers:7}  {low:5.2f}  {middle:5.2f}  {high:5.2f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
