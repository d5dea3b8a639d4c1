"""Which processes wait for each other, as a graph."""

from __future__ import annotations

import pytest

from poollock._supervisor.deadlock import Needs, find_ring, find_stuck

NOBODY = set[int]()


def any_of(*processes: int) -> Needs:
    return Needs(frozenset(processes))


def all_of(*processes: int) -> Needs:
    return Needs(frozenset(processes), all_of_them=True)


@pytest.mark.parametrize(
    ("needs", "stuck", "ring"),
    [
        (dict[int, Needs](), NOBODY, NOBODY),
        ({1: any_of(2)}, NOBODY, NOBODY),  # 2 works
        ({1: any_of(1)}, {1}, {1}),
        ({1: any_of(2), 2: any_of(1)}, {1, 2}, {1, 2}),
        ({1: any_of(2), 2: any_of(3), 3: any_of(1)}, {1, 2, 3}, {1, 2, 3}),
        ({1: any_of(2), 2: any_of(3)}, NOBODY, NOBODY),  # a chain that ends in one who works
        ({1: any_of(2), 2: any_of(1), 3: any_of(1)}, {1, 2, 3}, {1, 2}),  # 3 waits behind
        ({1: any_of(2, 3), 2: any_of(1)}, NOBODY, NOBODY),  # 3 may leave the semaphore
        ({1: any_of(2, 3), 2: any_of(1), 3: any_of(1)}, {1, 2, 3}, {1, 2, 3}),
        ({1: all_of(2, 3), 2: any_of(1)}, {1, 2}, {1, 2}),  # it needs both
        ({1: all_of(2, 3)}, NOBODY, NOBODY),
    ],
)
def test_stuck_and_ring(needs: dict[int, Needs], stuck: set[int], ring: set[int]) -> None:
    assert find_stuck(needs) == stuck
    assert find_ring(needs) == ring


def test_one_of_two_rings() -> None:
    needs = {1: any_of(2), 2: any_of(1), 3: any_of(4), 4: any_of(3)}
    assert find_ring(needs) in ({1, 2}, {3, 4})
