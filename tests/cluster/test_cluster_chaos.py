"""Workers of a cluster harmed at random, as `cluster_chaos.py` does it by the minute."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("distributed", reason="the extra poollock[dask] is not installed")

import cluster_chaos

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(240)])])
def test_workers_are_harmed_at_random(seconds: int) -> None:
    cluster_chaos.run(seconds=seconds, workers=3, threads=2, seed=seconds, every=0.2)
