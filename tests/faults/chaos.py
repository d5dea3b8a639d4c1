"""Kill a random worker every few milliseconds, under tasks that all want the lock.

    python tests/faults/chaos.py [--factory locked_pool] [--method fork] [--kind Lock] [--kills 1000]

Ends with an error if two workers hold the lock at once, an increment is lost, a task has no
outcome or two, or the pool hangs.  Prints what it did.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import fault_tasks as tasks  # noqa: E402 - found by the path above

import poollock  # noqa: E402 - found by the path above
from helpers import children, wait_until  # noqa: E402 - found by the path above
from poollock._supervisor import lock_recovery  # noqa: E402 - found by the path above

KINDS: dict[str, Any] = {
    "Lock": poollock.Lock,
    "RLock": poollock.RLock,
    "Semaphore": partial(poollock.Semaphore, 2),
}


def kill_workers(directory: str, kills: int, every: float, seed: int) -> None:
    """Be the killer, as long as the parent lives.

    Each worker is killed at most once, so that no other process gets its pid's signal.
    """
    generator = random.Random(seed)
    targets = Path(directory) / "targets"
    killed = 0
    parent: Any = multiprocessing.parent_process()
    while killed < kills and parent.is_alive():
        time.sleep(generator.expovariate(1 / every))
        pids = list(targets.iterdir())
        if pids:
            victim = generator.choice(pids)
            victim.unlink()
            with contextlib.suppress(ProcessLookupError):  # the pool itself was faster
                os.kill(int(victim.name), signal.SIGKILL)
                killed += 1


def run(
    *, factory: str, method: str, kind: str, kills: int, every: float, seed: int
) -> collections.Counter[str]:
    """Run tasks until *kills* workers have been killed; return how many ended in which way."""
    outcomes: collections.Counter[str] = collections.Counter()
    context: Any = multiprocessing.get_context(method)
    most = 2 if kind == "Semaphore" else 1
    with tempfile.TemporaryDirectory() as directory:
        for name in ("targets", "inside"):
            (Path(directory) / name).mkdir()
        (Path(directory) / "counter").touch()
        killer = context.Process(target=kill_workers, args=(directory, kills, every, seed))
        locks = {"lock": KINDS[kind](context=method)}
        with getattr(poollock, factory)(4, tasks.announce, (directory,), locks=locks, context=method) as pool:
            killer.daemon = True
            killer.start()
            while killer.is_alive():
                results = [pool.apply_async(tasks.increment, (directory, most)) for _ in range(200)]
                for result in results:
                    try:
                        result.get()
                        outcomes["done"] += 1
                    except poollock.WorkerDiedError as error:
                        outcomes["died"] += 1
                        outcomes["died holding"] += bool(error.locks_held)
                        outcomes["killed by the pool"] += "may have had a lock" in str(error)
            killer.join()
            wait_until(lambda: len(pool._pool) == 4)
            assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
        counter = int((Path(directory) / "counter").read_text() or 0)
    if most == 1 and not outcomes["done"] <= counter <= outcomes["done"] + outcomes["died"]:
        raise AssertionError(f"counted {counter}: {outcomes}")
    return outcomes


def main() -> None:
    """Run it as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--factory", default="locked_pool")
    parser.add_argument("--method", default="fork")
    parser.add_argument("--kind", default="Lock", choices=KINDS)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--every", type=float, default=0.01, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    options = parser.parse_args()
    lock_recovery._PROOF_FOR_OTHERS = lock_recovery._PROOF  # the killer takes no lock
    faulthandler.dump_traceback_later(60 + options.kills * 60 * options.every, exit=True)
    begun = time.monotonic()
    outcomes = run(**vars(options))
    print(vars(options), dict(outcomes), f"{time.monotonic() - begun:.1f} s", "left:", children())


if __name__ == "__main__":
    main()
