"""Clusters on this machine, of Dask's own making and of its two commands; and what cuts their connections."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dask.config
import distributed

from helpers import TESTS, wait_until

# Dask's own types are few.
Client: Any = distributed.Client
LocalCluster: Any = distributed.LocalCluster


@contextlib.contextmanager
def local_cluster(workers: int, threads: int = 1, **options: Any) -> Generator[Any, None, None]:
    """A cluster of worker processes with nannies, and its client."""
    with (
        # Dask's cluster would end a nanny whose worker is being restarted 15 s after it was killed before.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(
            n_workers=workers, threads_per_worker=threads, dashboard_address=":0", **options
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def wait_for_workers(client: Any, count: int) -> None:
    """Wait until there are so many workers: a nanny starts another one for each that was killed."""
    wait_until(lambda: len(client.nthreads()) == count)


class Commands:
    """A cluster of ``dask scheduler`` and ``dask worker`` processes.

    Args:
        directory: Where they leave their files.
        environment: Variables for the scheduler.
    """

    def __init__(self, directory: Path, environment: dict[str, str] | None = None) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        file = directory / "scheduler.json"
        self.scheduler = self._start(
            "scheduler",
            "--host=127.0.0.1",
            "--port=0",
            "--no-dashboard",
            f"--scheduler-file={file}",
            env=environment,
        )
        self.file = file
        wait_until(file.exists)

    def worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a worker with one thread, under a nanny unless *options* say otherwise; return that."""
        return self._start(
            "worker",
            f"--scheduler-file={self.file}",
            "--nthreads=1",
            "--no-dashboard",
            "--memory-limit=0",
            f"--local-directory={self._directory}",
            *options,
        )

    def _start(self, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(map(str, (TESTS, TESTS / "faults")))
        log = (self._directory / f"{len(self._processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self._processes.append(process)
        return process

    def end(self) -> None:
        """End all of it, at once."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cut_stream(dask_scheduler: Any, address: str) -> None:
    """Cut the stream of a worker to the scheduler."""
    dask_scheduler.stream_comms[address].abort()


def cut_connection(dask_scheduler: Any, pid: int) -> None:
    """Cut the connection of a process to the plugin."""
    for peer in list(dask_scheduler.plugins["poollock"]._peers.values()):
        if peer.member.pid == pid:
            peer.send.__self__._comm.abort()
