"""The fixtures of the tests that need a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clusters import Commands

# What needs Dask is imported when it is wanted: the tests are skipped where that is not installed.


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a cluster of two processes with two threads each."""
    from clusters import local_cluster  # noqa: PLC0415 - see above

    with local_cluster(2, 2) as made:
        yield made


@pytest.fixture
def pool(client: Any) -> Iterator[Any]:
    """A pool with one lock on the cluster of the module."""
    from clusters import wait_for_workers  # noqa: PLC0415 - see above
    from poollock.dask import dask_locked_pool  # noqa: PLC0415 - see above

    wait_for_workers(client, 2)
    with dask_locked_pool(client) as made:
        yield made


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Callable[..., Commands]]:
    """Starts clusters by Dask's commands, and ends them."""
    from clusters import Commands  # noqa: PLC0415 - see above

    made: list[Commands] = []

    def start(environment: dict[str, str] | None = None) -> Commands:
        directory = tmp_path / f"cluster-{len(made)}"
        directory.mkdir()
        made.append(Commands(directory, environment))
        return made[-1]

    yield start
    for each in made:
        each.end()
