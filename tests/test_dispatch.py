"""Which worker gets which task, and how messages are cut."""

from __future__ import annotations

import os
import pickle
import random
import socket
from pathlib import Path

import fault_tasks as tasks
import pytest

from conftest import wait_until
from poollock import LockedPool, locked_pool
from poollock._frames import HEADER, FrameReader, dump, header


def test_no_task_waits_behind_a_long_one(pool: LockedPool, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"stays-{number}"
        # Tiny ones first, so that many are sent ahead.
        items: list[str | int] = [*range(2000), str(path), *range(500)]
        results = pool.imap_unordered(tasks.stay_or_square, items)
        tiny = [next(results) for _ in range(2500)]
        assert sorted(tiny) == sorted(x * x for x in [*range(2000), *range(500)])
        pid = int(path.read_text())  # it still runs
        path.unlink()
        assert list(results) == [pid]


def test_two_long_ones_side_by_side(pool: LockedPool, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    results = pool.imap(tasks.stay_or_square, [*range(1000), *paths, *range(10)])
    assert [next(results) for _ in range(1000)] == [x * x for x in range(1000)]
    wait_until(lambda: all(map(os.path.exists, paths)))
    for path in paths:
        os.unlink(path)
    pids = [next(results) for _ in paths]
    assert len(set(pids)) == 2
    assert list(results) == [x * x for x in range(10)]


def test_imap_keeps_the_order(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "first"
    results = pool.imap(tasks.stay_or_square, [str(path), *range(300)])
    later = pool.map_async(tasks.square, range(10), chunksize=1)
    assert later.get() == [x * x for x in range(10)]  # by the other worker
    path.unlink()
    assert next(results) > 0
    assert list(results) == [x * x for x in range(300)]


def test_items_are_not_taken_far_ahead() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(100_000):
            taken.append(number)
            yield number

    with locked_pool(1) as pool:
        results = pool.imap(tasks.stay_or_square, items())  # type: ignore[arg-type]
        assert next(results) == 0
        pool.terminate()
        assert len(taken) < 100_000


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 16) - HEADER.size, 1 << 16, 1 << 20, 5 << 20])
def test_frames_arrive_as_they_were_sent(size: int) -> None:
    generator = random.Random(size)
    payloads = [generator.randbytes(size) if size else None, "small", generator.randbytes(100), "last"]
    stream = b"".join(header(dumped, number) + dumped for number, dumped in enumerate(map(dump, payloads)))
    ours, theirs = socket.socketpair()
    found: list[tuple[int, object]] = []
    with ours, theirs:
        reader = FrameReader(ours)
        while stream:
            piece = min(len(stream), generator.randrange(1, 50_000))
            theirs.sendall(stream[:piece])
            stream = stream[piece:]
            left = piece
            while left:
                before = reader._end - reader._start
                assert reader.receive()
                left -= reader._end - reader._start - before
                found += [(number, pickle.loads(payload)) for number, payload in reader.frames()]
        theirs.close()
        assert not reader.receive()
    assert found == list(enumerate(payloads))


def test_pipes_that_are_full(pool: LockedPool, tmp_path: Path) -> None:
    """Tasks of some size are sent ahead, and taken back when one of them is long."""
    filler = "x" * 14_000
    path = tmp_path / "stays"
    results = pool.imap_unordered(tasks.stay_or_size, [*[filler] * 500, str(path), *[filler] * 500])
    assert [next(results) for _ in range(1000)] == [14_000] * 1000
    path.unlink()
    assert len(list(results)) == 1
