"""Which worker gets which task, and how messages are cut."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import fault_tasks as tasks
import pytest

from helpers import wait_until
from poollock import LockedPool, locked_pool
from poollock._supervisor.dispatcher import Dispatcher
from poollock._supervisor.jobs import Job
from poollock._supervisor.task import Task
from poollock._supervisor.worker_handle import WorkerHandle, WorkerState
from poollock._worker.framing import HEADER, FrameReader, dump, header
from poollock._worker.main import LAST_BEGUN, REVOKED_FROM, REVOKED_TO, WorkerSocket


def test_no_task_waits_behind_a_long_one(pool: LockedPool, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"stays-{number}"
        # Tiny ones first, so that many are sent ahead.
        items: list[str | int] = [*range(2000), str(path), *range(500)]
        results = pool.imap_unordered(tasks.stay_or_square, items)
        tiny = [next(results) for _ in range(2500)]
        assert sorted(tiny) == sorted(x * x for x in [*range(2000), *range(500)])
        wait_until(path.exists)
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


class Played:
    """A worker without a process: the test begins its tasks and answers them."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.worker = WorkerHandle(WorkerState(multiprocessing.get_context()), None)
        self.worker.ready = True
        self.reader = FrameReader(self.worker.worker_socket.sock)
        self.worker.worker_socket.sock.settimeout(0)
        self.dispatcher = dispatcher
        self.received: list[tuple[int, int]] = []
        dispatcher.workers.append(self.worker)
        dispatcher.answered(self.worker, [])

    def begin(self) -> int:
        """Begin the next task that was not revoked; return which it is."""
        with suppress(BlockingIOError):
            self.reader.receive()
            self.received += [(number, pickle.loads(data)) for number, data in self.reader.frames()]
        words = self.worker.state.words.view
        while True:
            number, item = self.received.pop(0)
            if not words[REVOKED_FROM] <= number < words[REVOKED_TO]:
                words[LAST_BEGUN] = number
                return item

    def answer(self, micros: int = 1, size: int = 1) -> None:
        self.dispatcher.answered(self.worker, [(micros, memoryview(bytes(size)))])


def task(number: int) -> Task:
    made = Task(cast("Job", SimpleNamespace(is_over=False)), number, 0)
    made.payload = dump(number)
    return made


@pytest.mark.parametrize("both", [False, True])
def test_tasks_begin_in_the_order_in_which_they_came(both: bool) -> None:  # noqa: FBT001 - pytest's
    dispatcher = Dispatcher(2, lambda: None)
    one, two = Played(dispatcher), Played(dispatcher)
    for number in range(60):
        dispatcher.put(task(number))
    assert sorted([one.begin(), two.begin()]) == [0, 1]
    for worker in one, two, one, two, one, two:
        worker.answer()  # it gets more ahead each time
        worker.begin()
    dispatcher.balance()  # it remembers what they have begun
    two.answer()
    begun = [two.begin()]
    dispatcher._next_check = 0
    dispatcher.balance()  # the one has been at it for long: what it has ahead is taken back
    (first,) = one.worker.in_flight
    assert len(two.worker.in_flight) > 1
    if both:
        dispatcher._next_check = 0
        dispatcher.balance()
    two.answer()
    while two.worker.in_flight:
        begun.append(two.begin())
        has = [task.index for task in two.worker.in_flight]
        assert has == sorted(has)  # none waits behind a younger one
        two.answer()
    assert {first.index + 1, 59} <= {*begun}
    if both:
        assert begun[1:] == sorted(begun[1:])
    one.answer()
    assert not one.worker.in_flight
    for played in one, two:
        played.worker.worker_socket.sock.close()
        played.worker.close()


def test_nobody_waits_while_there_are_answers_or_large_ones() -> None:
    dispatcher = Dispatcher(1, lambda: None)
    played = Played(dispatcher)
    with played.worker.worker_socket.sock as sock, played.worker.sock:
        for number in range(100):
            dispatcher.put(task(number))
        for _ in range(6):
            played.begin()
            played.answer()
        assert dispatcher.coalescing_delay() > 0
        sock.send(bytes(1 << 15))
        assert played.worker.reader.receive()
        assert dispatcher.coalescing_delay() == 0
        played.worker.reader.is_full = False
        assert dispatcher.coalescing_delay() > 0
        while len(played.worker.in_flight) > 1:
            played.begin()
            played.answer(size=1 << 20)
        played.begin()
        played.answer(size=1 << 20)
        assert len(played.worker.in_flight) == 1


class WithoutMemory:
    def send(self, _: object) -> int:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def test_task_is_sent_later_if_there_is_no_memory_for_it() -> None:
    dispatcher = Dispatcher(1, lambda: None)
    played = Played(dispatcher)
    with played.worker.worker_socket.sock, played.worker.sock as sock:
        played.worker.sock = WithoutMemory()  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
        dispatcher.put(task(7))
        assert list(dispatcher.blocked) == [played.worker]
        played.worker.sock = sock
        assert dispatcher.flush(played.worker)
        assert played.begin() == 7


def test_items_are_not_taken_far_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int | str]:
        for number in range(100_000):
            taken.append(number)
            yield number

    with locked_pool(1) as pool:
        results = pool.imap(tasks.stay_or_square, items())
        assert next(results) == 0
        pool.terminate()
        assert len(taken) < 100_000
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "poollock-iterable"])


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


def test_long_task_is_begun_when_a_part_of_it_has_arrived() -> None:
    """Its worker's death costs it then: it is not sent again."""
    state = WorkerState(multiprocessing.get_context())
    pools, workers = socket.socketpair()
    end = WorkerSocket(workers)
    message = header(bytes(1 << 20), 7) + bytes(1 << 20)
    with pools, workers:
        receiver = threading.Thread(target=next, args=(end.tasks(state.words.view, state.lock),))
        receiver.start()
        pools.sendall(message[: 1 << 15])
        wait_until(lambda: state.words.view[LAST_BEGUN] == 7)
        pools.sendall(message[1 << 15 :])
        receiver.join()


def test_large_argument_is_kept_by_its_worker_alone(pool: LockedPool, tmp_path: Path) -> None:
    path = tmp_path / "stays"
    result = pool.apply_async(tasks.size_and_stay, (bytes(8 << 20), str(path)))
    wait_until(path.exists)
    dispatcher = pool._supervisor._event_loop._dispatcher
    wait_until(lambda: not any(task.payload for worker in dispatcher.workers for task in worker.in_flight))
    path.unlink()
    assert result.get() == 8 << 20


def test_pipe_is_not_watched_for_room_that_nobody_wants(pool: LockedPool) -> None:
    assert pool.apply(tasks.size, (bytes(8 << 20),)) == 8 << 20
    watched = pool._supervisor._event_loop._selector.get_map().values()
    assert {key.events for key in watched} == {selectors.EVENT_READ}
