"""Clusters on this machine: of Dask's own making, and of its two commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import TESTS, wait_until

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder the time that it takes to start and end a cluster on a busy machine."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120))


@contextlib.contextmanager
def local_cluster(workers: int, threads: int = 1, **options: Any) -> Generator[Any, None, None]:
    """A cluster of worker processes with nannies, and its client."""
    from distributed import Client, LocalCluster  # noqa: PLC0415 - it may not be installed

    with (
        LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=":0", **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a cluster of two processes with two threads each."""
    with local_cluster(2, 2) as made:
        yield made


@pytest.fixture
def pool(client: Any) -> Iterator[Any]:
    """A pool with one lock on the cluster of the module."""
    from poollock.dask import dask_locked_pool  # noqa: PLC0415 - see above

    wait_for_workers(client, 2)
    with dask_locked_pool(client) as made:
        yield made


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
            "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={file}", env=environment
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
        path = os.pathsep.join(map(str, (TESTS, HERE)))
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


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Callable[..., Commands]]:
    """Starts clusters by Dask's commands, and ends them."""
    made: list[Commands] = []

    def start(environment: dict[str, str] | None = None) -> Commands:
        directory = tmp_path / f"cluster-{len(made)}"
        directory.mkdir()
        made.append(Commands(directory, environment))
        return made[-1]

    yield start
    for each in made:
        each.end()


def seconds_since(start: float) -> float:
    return time.monotonic() - start
