"""What locks and tasks cost on a Dask cluster, beside Dask's own; how soon a dead holder's lock is free.

    python benchmarks/cluster.py [--rounds 9] [--workers 4]

A cluster of processes on this machine, one thread each.  In each round all of them take turns, so that a busy
machine slows all alike; the ratio is the median of the rounds' ratios, with the least and the most.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import dask.config
import distributed

from figures import machine
from poollock import BaseLock, WorkerDiedError
from poollock.dask import DaskLockedPool, dask_locked_pool

CYCLES = 200  # of a lock, at a time
ITEMS = 1000

_distributed: Any = distributed  # it has few types
Lock: Any = _distributed.Lock
Round = Callable[[], float]


def square(x: int) -> int:
    return x * x


def cycle(lock: Any, cycles: int) -> float:
    """The seconds of one `with lock: pass`."""
    start = time.perf_counter()
    for _ in range(cycles):
        with lock:
            pass
    return (time.perf_counter() - start) / cycles


def use_ours(lock: BaseLock, cycles: int) -> float:
    return cycle(lock, cycles)


def use_dasks(cycles: int) -> float:
    return cycle(Lock("benchmark"), cycles)


def hold(lock: BaseLock) -> None:
    with lock:
        time.sleep(3600)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def pairs(pool: DaskLockedPool, client: Any, workers: int) -> list[tuple[str, Round, Round]]:
    """What is measured: its name, ours, and Dask's."""
    each = [CYCLES // workers] * workers

    def contended() -> float:
        return statistics.mean(pool.map(use_ours, each, chunksize=1))

    def dasks_contended() -> float:
        seconds: list[float] = client.gather(client.map(use_dasks, each, pure=False))
        return statistics.mean(seconds)

    def dasks_map() -> float:
        return timed(lambda: client.gather(client.map(square, range(ITEMS), pure=False)))

    return [
        (
            "acquire and release",
            lambda: pool.apply(use_ours, (CYCLES,)),
            lambda: float(client.submit(use_dasks, CYCLES, pure=False).result()),
        ),
        (f"the same, {workers} workers at once", contended, dasks_contended),
        (f"map, {ITEMS} items", lambda: timed(lambda: pool.map(square, range(ITEMS))), dasks_map),
        (
            f"map, {ITEMS} items, chunksize=1",
            lambda: timed(lambda: pool.map(square, range(ITEMS), chunksize=1)),
            dasks_map,
        ),
    ]


def after_a_kill(pool: DaskLockedPool, client: Any, workers: int) -> float:
    """The seconds from the death of a worker that holds the lock until another process has it."""
    client.wait_for_workers(workers)
    result = pool.apply_async(hold)
    while not (pid := pool.lock.holder):
        time.sleep(0.01)
    start = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    with pool.lock:
        seconds = time.perf_counter() - start
        pool.lock.mark_consistent()
    with contextlib.suppress(WorkerDiedError):
        result.get()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with (
        # Dask's cluster would end a nanny whose worker is being restarted 15 s after it was killed before.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        _distributed.LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        _distributed.Client(cluster) as client,
        dask_locked_pool(client) as pool,
    ):
        measured = pairs(pool, client, options.workers)
        for _, ours, dasks in measured:  # once to warm up
            ours()
            dasks()
        seconds: list[list[tuple[float, float]]] = [[] for _ in measured]
        for _ in range(options.rounds):
            for (_, ours, dasks), rounds in zip(measured, seconds, strict=True):
                rounds.append((ours(), dasks()))
        kills = [after_a_kill(pool, client, options.workers) * 1e3 for _ in range(options.rounds)]
    print(f"{'':36}{'poollock':>12}{'Dask':>12}   ratio (least to most)")
    for (name, _, _), rounds in zip(measured, seconds, strict=True):
        our, their = (statistics.median(column) * 1e3 for column in zip(*rounds, strict=True))
        ratios = [ours / dasks for ours, dasks in rounds]
        ratio, least, most = statistics.median(ratios), min(ratios), max(ratios)
        print(f"{name:36}{our:9.2f} ms{their:9.2f} ms   {ratio:.2f} ({least:.2f} to {most:.2f})")
    name = "a dead holder's lock is free"
    print(f"{name:36}{statistics.median(kills):9.0f} ms   ({min(kills):.0f} to {max(kills):.0f})")
    print(f"distributed {_distributed.__version__}, {options.workers} workers, {machine()}")


if __name__ == "__main__":
    main()
