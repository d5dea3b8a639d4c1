"""Kill, retire, restart and cut off workers of a cluster at random, under tasks that all want the lock.

    python tests/faults/cluster_chaos.py [--seconds 60] [--workers 4] [--threads 2] [--seed 1]

Ends with an error if two tasks are inside at once, an increment is lost, a task begins twice, a task has no
outcome or two, or all of it hangs.  Prints what it did.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from clusters import cut_connection, cut_stream, local_cluster  # noqa: E402 - found by the path above
from poollock import BaseLock  # noqa: E402 - the same
from poollock.dask import DaskWorkerDiedError, dask_locked_pool  # noqa: E402 - the same

EVENTS = ["kill"] * 12 + ["cut the stream", "cut the connection", "retire", "restart"]


def increment(lock: BaseLock, directory: str, number: int) -> int:
    """Count inside the lock, with two detectors: a mark that nobody else may find, and the count itself."""
    begun = os.open(
        f"{directory}/begun-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY
    )  # raises if it begins twice
    os.close(begun)
    with lock:
        if lock.abandoned:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/inside")
            lock.mark_consistent()
        mark = os.open(
            f"{directory}/inside", os.O_CREAT | os.O_EXCL | os.O_WRONLY
        )  # raises if somebody is inside
        os.close(mark)
        with open(f"{directory}/count", "r+b", buffering=0) as file:
            count = int(file.read() or b"0")
            time.sleep(random.random() * 0.002)
            file.seek(0)
            file.write(b"%d" % (count + 1))
        os.unlink(f"{directory}/inside")
    return number


def workers_of(dask_scheduler: Any) -> list[tuple[str, int]]:
    """The workers that have a connection to the plugin, and that the scheduler has not given up."""
    members = [peer.member for peer in dask_scheduler.plugins["poollock"]._peers.values()]
    return sorted((each.worker, each.pid) for each in members if each.worker in dask_scheduler.workers)


class Troublemaker(threading.Thread):
    """Does harm to the workers of a cluster, one after the other, each time after a task was done.

    However slowly workers start, some then get to their tasks.

    Args:
        client: The client of the cluster.
        seed: Of the random numbers.
        every: Seconds between two events, on average.
        workers: How many workers there should be.
    """

    def __init__(self, client: Any, seed: int, every: float, workers: int) -> None:
        super().__init__()
        self.done: collections.Counter[str] = collections.Counter()
        self.task_done = threading.Event()
        self.stopped = threading.Event()
        self._client = client
        self._random = random.Random(seed)
        self._every = every
        self._workers = workers

    def run(self) -> None:
        while not self.stopped.wait(self._random.expovariate(1 / self._every)):
            self.task_done.wait()
            self.task_done.clear()
            event = self._random.choice(EVENTS)
            with contextlib.suppress(Exception):  # the worker has just gone
                workers = self._client.run_on_scheduler(workers_of)
                if workers:
                    self._do(event, *self._random.choice(workers))
                    self.done[event] += 1

    def _do(self, event: str, address: str, pid: int) -> None:
        if event == "kill":
            os.kill(pid, signal.SIGKILL)
        elif event == "cut the stream":
            self._client.run_on_scheduler(cut_stream, address=address)
            self._replace()
        elif event == "cut the connection":
            self._client.run_on_scheduler(cut_connection, pid=pid)
        elif event == "retire":
            self._client.retire_workers([address])
            self._replace()
        else:
            self._client.restart_workers([address], timeout=20)

    def _replace(self) -> None:
        """Have another worker take the place of one that is gone with its nanny."""
        self._workers += 1
        self._client.cluster.scale(self._workers)


def run(*, seconds: float, workers: int, threads: int, seed: int, every: float) -> collections.Counter[str]:
    """Run tasks for some time; return how many ended in which way, and what was done to the workers."""
    outcomes: collections.Counter[str] = collections.Counter()
    with (
        tempfile.TemporaryDirectory() as directory,
        local_cluster(workers, threads) as client,
        dask_locked_pool(client) as pool,
    ):
        (Path(directory) / "count").touch()
        trouble = Troublemaker(client, seed, every, workers)
        trouble.start()
        end = time.monotonic() + seconds
        number = 0
        try:
            while not trouble.stopped.is_set():
                results = [pool.apply_async(increment, (directory, number + i)) for i in range(100)]
                number += len(results)
                for result in results:
                    try:
                        result.get(60)
                        outcomes["done"] += 1
                        trouble.task_done.set()
                    except DaskWorkerDiedError as error:
                        outcomes["died"] += 1
                        outcomes["died holding"] += bool(error.locks_held)
                    if time.monotonic() > end and outcomes["died"]:
                        trouble.stopped.set()
        finally:
            trouble.stopped.set()
            trouble.task_done.set()
            trouble.join()
        count = int((Path(directory) / "count").read_bytes() or 0)
        begun = len(list(Path(directory).glob("begun-*")))
    if not outcomes["done"] <= count <= outcomes["done"] + outcomes["died"]:
        raise AssertionError(f"counted {count}: {outcomes}")
    if not outcomes["done"] <= begun <= number == outcomes["done"] + outcomes["died"]:
        raise AssertionError(f"{begun} of {number} have begun: {outcomes}")
    return outcomes + trouble.done


def main() -> None:
    """Run it as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two events, on average")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    options = parser.parse_args()
    faulthandler.dump_traceback_later(120 + options.seconds, exit=True)
    begun = time.monotonic()
    outcomes = run(**vars(options))
    print(vars(options), dict(outcomes), f"{time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
