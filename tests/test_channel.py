"""The pipes between a pool and its workers."""

from __future__ import annotations

import multiprocessing
import threading

from poollock._channel import ResultQueue


def test_sentinels_pass_when_the_workers_are_stopped() -> None:
    """A worker that is terminated while it sends must not leave the parent waiting for its lock."""
    results = ResultQueue(multiprocessing.get_context("fork"))
    results.put("a result")
    with results._wlock:  # a worker sends
        waiting = threading.Thread(target=results.put, args=(None,))
        waiting.start()
    results.stop_workers()
    waiting.join()
    results.put(None)
    assert [results.get() for _ in range(3)] == ["a result", None, None]
    assert not results._wlock.acquire(block=False)  # no worker sends any more
