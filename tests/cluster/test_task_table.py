"""Which task has begun: the table that the scheduler keeps."""

from __future__ import annotations

import pytest

pytest.importorskip("distributed", reason="the extra poollock[dask] is not installed")

from poollock.dask._lock_table import Peer
from poollock.dask._member import Member
from poollock.dask._task_table import TaskTable, job_name


def process(pid: int) -> Peer:
    def send(message: object) -> None:
        pass

    return Peer(Member(str(pid), pid, "host", "", ""), send, send)


JOB = job_name("square", "session", 1)
CLIENT, ONE, TWO = process(1), process(2), process(3)


@pytest.fixture
def table() -> TaskTable:
    made = TaskTable()
    made.add(JOB, CLIENT, b"")
    return made


def test_a_task_begins_once(table: TaskTable) -> None:
    assert table.begin(ONE, JOB, 0, "square")
    assert not table.begin(TWO, JOB, 0, "square")
    assert not table.begin(ONE, JOB, 0, "square")
    assert table.begin(TWO, JOB, 1, "square")


def test_nor_after_it_has_ended(table: TaskTable) -> None:
    table.begin(ONE, JOB, 0, "square")
    assert table.end(ONE, JOB, 0) is CLIENT
    assert not table.begin(TWO, JOB, 0, "square")
    assert table.end(ONE, JOB, 0) is None


def test_only_who_has_begun_it_ends_it(table: TaskTable) -> None:
    table.begin(ONE, JOB, 0, "square")
    assert table.end(TWO, JOB, 0) is None
    assert table.end(ONE, JOB, 0) is CLIENT


def test_one_that_was_withdrawn_does_not_begin(table: TaskTable) -> None:
    assert table.withdraw(JOB, 0)
    assert not table.begin(ONE, JOB, 0, "square")
    table.begin(ONE, JOB, 1, "square")
    assert not table.withdraw(JOB, 1)


def test_nothing_is_kept_of_tasks_that_dask_has_forgotten(table: TaskTable) -> None:
    table.begin(ONE, JOB, 0, "square")
    table.forget(JOB, 0)
    assert not table.begin(TWO, JOB, 0, "square")  # it runs
    table.end(ONE, JOB, 0)
    table.forget(JOB, 0)
    assert table.jobs[JOB].begun == {}
    assert (JOB, 0) not in ONE.tasks


def test_the_tasks_of_a_client_that_has_ended_do_not_begin(table: TaskTable) -> None:
    table.begin(ONE, JOB, 0, "square")
    table.leave(CLIENT)
    assert not table.begin(TWO, JOB, 1, "square")
    assert table.end(ONE, JOB, 0) is None


def test_which_jobs_are_still_to_come(table: TaskTable) -> None:
    client = process(9)
    later, first = job_name("f", "9", 2), job_name("f-g", "9", 1)
    assert table.is_expected(first, client)
    table.add(later, client, b"")
    assert table.is_expected(first, client)
    assert not table.is_expected(later, client)
    table.add(first, client, b"")
    assert not table.is_expected(first, client)
    client.is_gone = True
    assert not table.is_expected(job_name("f", "9", 3), client)
