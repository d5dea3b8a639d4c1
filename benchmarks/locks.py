"""What each kind of lock costs in a worker, beside multiprocessing's of the same name.

    python benchmarks/locks.py [--json FILE] [number of processes ...]

All of them take turns in each round, so that a busy machine slows all alike.  `with` is the median
over the rounds of the nanoseconds for one `with lock: pass` (`with lock, lock: pass` where it says
`twice`), and its ratio to the same of multiprocessing, with the least and the most of a round.
`acquire` is one `acquire(); release()`, and its ratio to the `with` of the very same lock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from figures import save
from poollock import Lock, RLock, Semaphore, manager_locked_pool

ROUNDS = 41
FAST, SLOW = 8_000, 60  # cycles at a time, of a lock in shared memory and in a manager


def use_with(lock: Any, cycles: int) -> None:
    for _ in range(cycles):
        with lock:
            pass


def use_with_twice(lock: Any, cycles: int) -> None:
    for _ in range(cycles):
        with lock, lock:
            pass


def use_acquire(lock: Any, cycles: int) -> None:
    for _ in range(cycles):
        lock.acquire()
        lock.release()


def use_acquire_twice(lock: Any, cycles: int) -> None:
    for _ in range(cycles):
        lock.acquire()
        lock.acquire()
        lock.release()
        lock.release()


Use = Callable[[Any, int], None]
ONCE: tuple[Use, Use] = use_with, use_acquire
TWICE: tuple[Use, Use] = use_with_twice, use_acquire_twice


class Pair(NamedTuple):
    """A lock of poollock and multiprocessing's of the same name: what they are called, how they are used."""

    names: tuple[str, str]
    locks: tuple[Any, Any]
    uses: tuple[Use, Use]
    cycles: int


def pairs(context: Any, ours: Any, manager: Any, processes: int) -> list[Pair]:
    """All that is measured; *ours* are the locks of a manager_locked_pool."""
    fast, slow = FAST // min(processes, 4), max(SLOW // processes, 10)
    rlocks, managers_rlocks = (RLock(context=context), context.RLock()), (ours["rlock"], manager.RLock())
    return [
        Pair(("poollock.Lock", "multiprocessing.Lock"), (Lock(context=context), context.Lock()), ONCE, fast),
        Pair(("poollock.RLock", "multiprocessing.RLock"), rlocks, ONCE, fast),
        Pair(("poollock.RLock twice", "multiprocessing.RLock twice"), rlocks, TWICE, fast),
        Pair(
            ("poollock.Semaphore(3)", "multiprocessing.Semaphore(3)"),
            (Semaphore(3, context=context), context.Semaphore(3)),
            ONCE,
            fast,
        ),
        Pair(("manager_locked_pool", "Manager().Lock()"), (ours["lock"], manager.Lock()), ONCE, slow),
        Pair(("manager_locked_pool, RLock", "Manager().RLock()"), managers_rlocks, ONCE, slow),
        Pair(("manager_locked_pool, RLock twice", "Manager().RLock() twice"), managers_rlocks, TWICE, slow),
        Pair(
            ("manager_locked_pool, Semaphore(3)", "Manager().Semaphore(3)"),
            (ours["semaphore"], manager.Semaphore(3)),
            ONCE,
            slow,
        ),
    ]


def measure(all_pairs: list[Pair], barrier: Any, results: Any) -> None:
    """Time each lock in turn, starting each time together with the other processes."""
    turns = [
        (name, lock, use, own_copy(use), pair.cycles)
        for pair in all_pairs
        for name, lock in zip(pair.names, pair.locks, strict=True)
        for use in pair.uses
    ]
    for _ in range(ROUNDS):
        for name, lock, use, copy, cycles in turns:
            barrier.wait()
            start = time.perf_counter_ns()
            copy(lock, cycles)
            results.put((name, use, (time.perf_counter_ns() - start) / cycles))


def own_copy(use: Any) -> Use:
    """Return a copy of the function for one lock alone: CPython specializes code by what it meets there."""
    return FunctionType(use.__code__.replace(), globals())


def run(processes: int) -> dict[str, list[float]]:
    """Measure and print; return the costs of `with` by name."""
    context: Any = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    )
    kinds = {
        "lock": Lock(context=context),
        "rlock": RLock(context=context),
        "semaphore": Semaphore(3, context=context),
    }
    barrier, results = context.Barrier(processes), context.SimpleQueue()
    costs: dict[tuple[str, Use], list[float]] = {}
    with manager_locked_pool(1, locks=kinds, context=context) as pool, context.Manager() as manager:
        all_pairs = pairs(context, pool.locks, manager, processes)
        workers = [
            context.Process(target=measure, args=(all_pairs, barrier, results)) for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        for _ in range(ROUNDS * sum(len(pair.names) * len(pair.uses) for pair in all_pairs)):
            together = [results.get() for _ in range(processes)]
            ((name, use),) = {(name, use) for name, use, _ in together}
            costs.setdefault((name, use), []).append(statistics.median(cost for *_, cost in together))
        for worker in workers:
            worker.join()
    print(f"\n{processes} contending process{'es' if processes > 1 else ''}")
    print(f"{'':34}{'with':>8}  {'times multiprocessing':24}{'acquire':>8}  times the same lock's with")
    for pair in all_pairs:
        in_with, in_acquire = pair.uses
        standard = costs[pair.names[1], in_with]
        for name in pair.names:
            cost, by_call = costs[name, in_with], costs[name, in_acquire]
            ratio = show_ratio(cost, standard) if cost is not standard else ""
            print(
                f"{name:34}{statistics.median(cost):>8,.0f}  {ratio:24}"
                f"{statistics.median(by_call):>8,.0f}  {show_ratio(by_call, cost)}"
            )
    return {name: costs[name, pair.uses[0]] for pair in all_pairs for name in pair.names}


def show_ratio(costs: Sequence[float], to: Sequence[float]) -> str:
    """The median, least and most of the ratios of each round."""
    ratios = [cost / other for cost, other in zip(costs, to, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f} to {max(ratios):.2f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("processes", type=int, nargs="*", default=[1, 2, 8])
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file, too, for docs/draw.py")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {multiprocessing.cpu_count()} cores, {platform.platform()}")
    costs = {count: run(count) for count in options.processes}
    if options.json:
        save(options.json, costs)
