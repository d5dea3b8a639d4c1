"""What a lock costs in a worker, beside what a user would take instead.

    python benchmarks/locks.py [--json FILE] [number of processes ...]

All of them take turns in each round, so that a busy machine slows all alike.  A figure is the
median over the rounds of the nanoseconds for one `with lock: pass`; in brackets least and most.
The ratio is to `with multiprocessing.Lock()` of the same round, `bare semaphore` is the limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

from figures import save
from poollock import Lock, manager_locked_pool

ROUNDS = 15


class Peer(NamedTuple):
    name: str
    lock: Any
    cycles: int


def measure(peers: list[Peer], barrier: Barrier, results: Any) -> None:
    """Time each lock in turn, starting each time together with the other processes."""
    for _ in range(ROUNDS):
        for name, lock, cycles in peers:
            barrier.wait()
            start = time.perf_counter_ns()
            for _ in range(cycles):
                with lock:
                    pass
            results.put((name, (time.perf_counter_ns() - start) / cycles))


def peers(ours: Lock, standard: Any, manager_ours: Any, manager_standard: Any, processes: int) -> list[Peer]:
    fast, slow = 40_000 // min(processes, 4), 200 // processes
    return [
        Peer("poollock.Lock", ours, fast),
        Peer("multiprocessing.Lock", standard, fast),
        Peer("bare semaphore", standard._semlock, fast),
        Peer("manager_locked_pool", manager_ours, slow),
        Peer("Manager().Lock()", manager_standard, slow),
    ]


def run(processes: int) -> dict[str, list[float]]:
    context: Any = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    )
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    with manager_locked_pool(1, context=context) as pool, context.Manager() as manager:
        locks = peers(Lock(context=context), context.Lock(), pool.lock, manager.Lock(), processes)
        workers = [context.Process(target=measure, args=(locks, barrier, results)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        figures: dict[str, list[float]] = {peer.name: [] for peer in locks}
        for _ in range(ROUNDS):
            for peer in locks:
                together = [results.get() for _ in range(processes)]
                assert all(name == peer.name for name, _ in together)
                figures[peer.name].append(statistics.median(cost for _, cost in together))
        for worker in workers:
            worker.join()
    print(f"\n{processes} contending process{'es' if processes > 1 else ''}")
    print(f"{'':22}{'ns a cycle':>12}{'':24}ratio to multiprocessing.Lock")
    for name, costs in figures.items():
        ratios = [
            cost / standard for cost, standard in zip(costs, figures["multiprocessing.Lock"], strict=True)
        ]
        spread = f"[{min(costs):,.0f} to {max(costs):,.0f}]"
        print(
            f"{name:22}{statistics.median(costs):>12,.0f} {spread:23}"
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"
        )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("processes", type=int, nargs="*", default=[1, 2, 8])
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, too, for docs/draw.py")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {multiprocessing.cpu_count()} cores, {platform.platform()}")
    costs = {count: run(count) for count in options.processes}
    if options.json:
        save(options.json, costs)
