"""The dispatcher alone: the order of tasks among workers that have some ahead."""

from __future__ import annotations

import multiprocessing
import pickle
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest

from poollock._supervisor.dispatcher import Dispatcher
from poollock._supervisor.jobs import Job
from poollock._supervisor.task import Task
from poollock._supervisor.worker_handle import WorkerHandle, WorkerState
from poollock._worker.framing import FrameReader
from poollock._worker.worker_socket import LAST_BEGUN, REVOKED_FROM, REVOKED_TO


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
    made.payload = pickle.dumps(number)
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
