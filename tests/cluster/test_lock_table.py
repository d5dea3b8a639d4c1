"""Who has which lock: the table that the scheduler keeps."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra poollock[dask] is not installed")

from poollock.dask._lock_table import LockTable, Message, Numbers, Peer
from poollock.dask._member import Member

NAME = "pool/lock"


class Process(Peer):
    """A process that notes what it is sent."""

    def __init__(self, pid: int) -> None:
        self.received: list[Message] = []
        super().__init__(
            Member(str(pid), pid, "host", f"tcp://{pid}", ""), self.received.append, self.received.append
        )

    def acquire(
        self,
        table: LockTable,
        number: int,
        name: str = NAME,
        *,
        permits: int = 1,
        timeout: float | None = None,
        **k: Any,
    ) -> bool | None:
        owner = k.get("owner", "task")
        now = k.get("now", 0.0)
        return table.acquire(
            self, number, name, permits=permits, owner=owner, task="a task", now=now, timeout=timeout
        )


@pytest.fixture
def table() -> LockTable:
    return LockTable()


@pytest.fixture
def one() -> Process:
    return Process(1)


@pytest.fixture
def two() -> Process:
    return Process(2)


@pytest.fixture
def three() -> Process:
    return Process(3)


def pids(table: LockTable, name: str = NAME) -> list[int]:
    return [holder[0] for holder in table.describe(name)["holders"]]


def test_the_next_one_gets_it_in_the_order_of_the_requests(
    table: LockTable, one: Process, two: Process, three: Process
) -> None:
    assert one.acquire(table, 1) is True
    assert two.acquire(table, 7) is None
    assert three.acquire(table, 1) is None
    table.release(one, 1)
    assert (two.received, three.received) == ([{"re": 7, "ok": True}], [])
    table.release(two, 7)
    assert three.received == [{"re": 1, "ok": True}]
    assert pids(table) == [3]


def test_without_patience(table: LockTable, one: Process, two: Process) -> None:
    assert one.acquire(table, 1, timeout=0) is True
    assert two.acquire(table, 1, timeout=0) is False
    table.release(one, 1)
    assert two.received == []
    assert table.describe(NAME)["free"] == 1


def test_who_has_waited_long_enough_gets_nothing_any_more(
    table: LockTable, one: Process, two: Process
) -> None:
    one.acquire(table, 1)
    two.acquire(table, 1, timeout=5)
    assert table.withdraw(two, 1) is not None
    assert table.withdraw(two, 1) is None
    table.release(one, 1)
    assert (pids(table), two.received) == ([], [])


def test_a_wait_that_was_interrupted_is_taken_back_whether_it_was_granted_or_not(
    table: LockTable, one: Process, two: Process, three: Process
) -> None:
    one.acquire(table, 1)
    two.acquire(table, 1)
    three.acquire(table, 1)
    table.release(two, 1)
    table.release(one, 1)
    assert pids(table) == [3]
    table.release(three, 1)
    table.release(three, 1)
    assert pids(table) == []


def test_a_semaphore(table: LockTable, one: Process, two: Process, three: Process) -> None:
    assert one.acquire(table, 1, permits=2) is True
    assert two.acquire(table, 1, permits=2) is True
    assert three.acquire(table, 1, permits=2) is None
    assert table.describe(NAME)["free"] == 0
    table.release(one, 1)
    assert pids(table) == [2, 3]


def test_who_comes_later_does_not_overtake(table: LockTable, one: Process, two: Process) -> None:
    one.acquire(table, 1, permits=2)
    one.acquire(table, 2, permits=2)
    two.acquire(table, 1, permits=2)
    table.release(one, 1)
    assert one.acquire(table, 3, permits=2) is None
    assert pids(table) == [1, 2]


def test_a_death_frees_and_marks(table: LockTable, one: Process, two: Process, three: Process) -> None:
    one.acquire(table, 1, owner="job/1")
    one.acquire(table, 2, "pool/other", owner="job/2")
    two.acquire(table, 1)
    one.acquire(table, 3, owner="job/3")
    three.acquire(table, 1)
    table.leave(one)
    assert table.recover(one) == {("1", "job/1"): ["lock"], ("1", "job/2"): ["other"]}
    assert two.received == [{"re": 1, "ok": True}]
    assert one.received == []
    assert table.describe(NAME)["abandoned"]
    assert table.describe("pool/other") == {"holders": [], "abandoned": True, "free": 1}
    table.mark_consistent(NAME)
    assert not table.describe(NAME)["abandoned"]
    table.release(two, 1)
    assert pids(table) == [3]


def test_who_dies_waiting_is_passed_over(
    table: LockTable, one: Process, two: Process, three: Process
) -> None:
    one.acquire(table, 1)
    two.acquire(table, 1)
    three.acquire(table, 1)
    table.leave(two)
    table.release(one, 1)
    assert (two.received, pids(table)) == ([], [3])
    assert table.recover(two) == {}
    assert not table.describe(NAME)["abandoned"]


def test_the_locks_of_a_pool_are_forgotten_when_nobody_uses_them(
    table: LockTable, one: Process, two: Process
) -> None:
    one.acquire(table, 1)
    one.acquire(table, 2, "pool/idle")
    table.release(one, 2)
    one.acquire(table, 3, "pool2/other")
    two.acquire(table, 1)
    table.drop("pool")
    assert set(table.locks) == {NAME, "pool2/other"}
    table.release(one, 1)
    assert pids(table) == [2]
    table.release(two, 1)
    assert set(table.locks) == {"pool2/other"}


def test_a_ring_of_waits_is_found_and_the_youngest_is_told(
    table: LockTable, one: Process, two: Process, three: Process
) -> None:
    one.acquire(table, 1, "pool/a")
    two.acquire(table, 1, "pool/b")
    one.acquire(table, 2, "pool/b", now=1)
    assert table.find_deadlock(9, {}) is None
    two.acquire(table, 2, "pool/a", now=2)
    three.acquire(table, 1, "pool/a", now=3)  # waits behind the ring, and is in none
    assert table.find_deadlock(1.5, {}) is None  # one of the waits is too young
    found = table.find_deadlock(9, {})
    assert found is not None
    assert found.victim.peer is two
    assert [request.peer for request in found.others] == [one]
    table.withdraw(two, 2)
    assert table.find_deadlock(9, {}) is None


def test_a_lock_taken_twice_is_a_ring(table: LockTable, one: Process) -> None:
    one.acquire(table, 1)
    one.acquire(table, 2)
    found = table.find_deadlock(9, {})
    assert found is not None
    assert found.victim.number == 2


def test_another_task_of_the_same_process_can_go_on(table: LockTable, one: Process) -> None:
    one.acquire(table, 1, owner="job/1")
    one.acquire(table, 2, owner="job/2")
    assert table.find_deadlock(9, {}) is None


def test_who_waits_for_a_limited_time_can_go_on(table: LockTable, one: Process, two: Process) -> None:
    one.acquire(table, 1, "pool/a")
    two.acquire(table, 1, "pool/b")
    one.acquire(table, 2, "pool/b")
    two.acquire(table, 2, "pool/a", timeout=60)
    assert table.find_deadlock(9, {}) is None


def test_a_semaphore_with_a_holder_that_can_go_on_is_no_ring(
    table: LockTable, one: Process, two: Process, three: Process
) -> None:
    one.acquire(table, 1, permits=2)
    two.acquire(table, 1, permits=2)
    one.acquire(table, 2, permits=2)
    assert table.find_deadlock(9, {}) is None
    two.acquire(table, 2, permits=2)
    found = table.find_deadlock(9, {})
    assert found is not None


def test_a_client_that_holds_what_the_task_needs_that_it_waits_for(
    table: LockTable, one: Process, two: Process
) -> None:
    one.acquire(table, 1, owner="thread")  # the client
    two.acquire(table, 1, owner="job/0")
    assert table.find_deadlock(9, {}) is None
    found = table.find_deadlock(9, {("1", "thread"): frozenset({("2", "job/0")})})
    assert found is not None
    assert (found.victim.peer, found.clients) == (two, [1])
    # Another task of the job can go on, but the client needs them all.
    assert table.find_deadlock(9, {("1", "thread"): frozenset({("2", "job/0"), ("2", "job/1")})}) is not None
    assert table.find_deadlock(9, {("1", "thread"): frozenset({("2", "job/1")})}) is None


def test_numbers_that_come_out_of_order() -> None:
    numbers = Numbers()
    numbers.add(2)
    assert (1 in numbers, 2 in numbers, 3 in numbers) == (False, True, False)
    numbers.add(1)
    numbers.add(4)
    assert [number in numbers for number in range(1, 6)] == [True, True, False, True, False]
