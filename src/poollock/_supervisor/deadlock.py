"""Which processes wait for each other: found as a database does, by striking out all that can go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Needs(NamedTuple):
    """What a process that waits needs before it can go on.

    Attributes:
        processes: The processes that may give it what it waits for.
        all_of_them: Whether it needs each of them; else, any one will do.
    """

    processes: frozenset[int]
    all_of_them: bool = False

    def are_met_without(self, stuck: Iterable[int]) -> bool:
        """Return whether the process can go on, though those in *stuck* cannot."""
        free = self.processes.difference(stuck)
        return free == self.processes if self.all_of_them else bool(free)


def find_stuck(needs: Mapping[int, Needs]) -> frozenset[int]:
    """Return the processes that can never go on.

    Args:
        needs: Of each process that waits, what it needs.  Any other process can go on.
    """
    stuck = set(needs)
    while free := {pid for pid in stuck if needs[pid].are_met_without(stuck)}:
        stuck -= free
    return frozenset(stuck)


def find_ring(needs: Mapping[int, Needs]) -> frozenset[int]:
    """Return processes that wait for each other, and for no others that are stuck; none if there are none.

    A process that waits behind such a ring can go on once that is broken: it is in none.
    """
    stuck = find_stuck(needs)
    reachable = {pid: _reachable(pid, needs, stuck) for pid in stuck}
    for others in reachable.values():
        if others and all(reachable[other] == others for other in others):
            return others
    return frozenset()


def _reachable(start: int, needs: Mapping[int, Needs], stuck: frozenset[int]) -> frozenset[int]:
    """Return the stuck processes that *start* waits for, directly or not."""
    found: set[int] = set()
    todo = [start]
    while todo:
        new = (needs[todo.pop()].processes & stuck) - found
        found |= new
        todo += new
    return frozenset(found)
