"""Who has which lock, and who waits for it: the state that the scheduler keeps.  No I/O, and no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from poollock._supervisor.deadlock import Needs, find_ring

from ._member import Member

Message: TypeAlias = dict[str, Any]
# Who in a process takes a lock, a task or a thread: the process's session, and which of them.
Owner: TypeAlias = tuple[str, str]


class Numbers:
    """A set of numbers that are given from 1 on, each once, and come almost in order."""

    def __init__(self) -> None:
        self._below = 1  # all that are less are in it
        self._others: set[int] = set()

    def add(self, number: int) -> None:
        """Add a number."""
        self._others.add(number)
        while self._below in self._others:
            self._others.remove(self._below)
            self._below += 1

    def __contains__(self, number: int) -> bool:
        return number < self._below or number in self._others


class Peer:
    """A process, as the scheduler sees it.

    Args:
        member: What the process has said of itself.
        send: Sends it a message.
        send_soon: Sends it a message, perhaps a little later, together with others.

    Attributes:
        requests: What it has of locks, or waits for, by the number that it gave it.
        tasks: The tasks that it has begun and not ended, each with what a message calls it.
        jobs: The numbers of the jobs that it has told of.
        is_gone: Whether its connection has ended.
    """

    def __init__(
        self, member: Member, send: Callable[[Message], object], send_soon: Callable[[Message], object]
    ) -> None:
        self.member = member
        self.send = send
        self.send_soon = send_soon
        self.requests: dict[int, Request] = {}
        self.tasks: dict[tuple[str, int], str] = {}
        self.jobs = Numbers()
        self.is_gone = False

    @property
    def granted(self) -> list[Request]:
        """What it has of locks."""
        return [request for request in self.requests.values() if request.granted]


class Request:
    """That somebody has a lock, or waits for it.

    Args:
        peer: The process.
        number: The number that it gave the request.
        lock: The lock.
        owner: Which task or thread of the process.
        task: What a message calls the task; empty if it is a thread.
        since: When the request came.
        is_timed: Whether it waits for some time at most.
    """

    __slots__ = ("granted", "is_timed", "lock", "number", "owner", "peer", "since", "task")

    def __init__(
        self,
        peer: Peer,
        number: int,
        lock: LockState,
        *,
        owner: str,
        task: str,
        since: float,
        is_timed: bool,
    ) -> None:
        self.peer = peer
        self.number = number
        self.owner: Owner = peer.member.session, owner
        self.task = task
        self.lock = lock
        self.since = since
        self.is_timed = is_timed
        self.granted = False

    @property
    def holder(self) -> tuple[int, str, str, str]:
        """The arguments of a ``Holder``."""
        member = self.peer.member
        return member.pid, member.host, member.worker, self.task


class LockState:
    """One lock.

    Args:
        name: Its name in the whole cluster: its pool's, and its own in that.
        permits: How many may have it at once.
    """

    def __init__(self, name: str, permits: int) -> None:
        self.name = name
        self.permits = permits
        self.granted: dict[Request, None] = {}
        self.queue: dict[Request, None] = {}  # in the order in which they came
        self.abandoned = False
        self.is_dropped = False  # its pool has ended

    @property
    def own_name(self) -> str:
        """The name that its pool gave it."""
        return self.name.partition("/")[2]

    def describe(self) -> Message:
        """Return what a process is told of it."""
        return {
            "holders": [request.holder for request in self.granted],
            "abandoned": self.abandoned,
            "free": self.permits - len(self.granted),
        }


class Deadlock(NamedTuple):
    """Waits that can never end.

    Attributes:
        victim: The one that is to be told.
        others: The other waits of the ring.
        clients: The pids of the clients whose threads wait for results in it.
    """

    victim: Request
    others: list[Request]
    clients: list[int]


class LockTable:
    """The locks of all pools of a cluster."""

    def __init__(self) -> None:
        self.locks: dict[str, LockState] = {}

    def acquire(
        self,
        peer: Peer,
        number: int,
        name: str,
        *,
        permits: int,
        owner: str,
        task: str,
        now: float,
        timeout: float | None,
    ) -> bool | None:
        """Have *peer* ask for a lock.

        Args:
            peer: The process.
            number: What it calls this request.
            name: The lock's name in the cluster.
            permits: How many may have it at once.
            owner: Which task or thread asks.
            task: What a message calls the task.
            now: The time.
            timeout: Seconds that it waits at most; ``None`` is no limit.

        Returns:
            Whether it has the lock; ``None`` if it waits.
        """
        lock = self.locks.get(name)
        if lock is None:
            lock = self.locks[name] = LockState(name, permits)
        is_timed = timeout is not None
        request = Request(peer, number, lock, owner=owner, task=task, since=now, is_timed=is_timed)
        if len(lock.granted) < lock.permits and not lock.queue:
            self._grant(request)
            return True
        if timeout is not None and timeout <= 0:
            return False
        peer.requests[number] = request
        lock.queue[request] = None
        return None

    @staticmethod
    def _grant(request: Request) -> None:
        request.granted = True
        request.peer.requests[request.number] = request
        request.lock.granted[request] = None

    def withdraw(self, peer: Peer, number: int) -> Request | None:
        """Have *peer* wait no more; return None if it does not wait."""
        request = peer.requests.get(number)
        if request is None or request.granted:
            return None
        del peer.requests[number], request.lock.queue[request]
        self._drop_if_idle(request.lock)
        return request

    def release(self, peer: Peer, number: int) -> None:
        """Have *peer* give a lock back, or wait for it no more."""
        if self.withdraw(peer, number) is not None:
            return
        request = peer.requests.pop(number, None)
        if request is None:  # it was freed by force
            return
        lock = request.lock
        del lock.granted[request]
        while lock.queue and len(lock.granted) < lock.permits:
            first = next(iter(lock.queue))
            del lock.queue[first]
            self._grant(first)
            first.peer.send({"re": first.number, "ok": True})
        self._drop_if_idle(lock)

    def describe(self, name: str) -> Message:
        """Return what a process is told of a lock, which may never have been used."""
        lock = self.locks.get(name)
        return lock.describe() if lock else {"holders": [], "abandoned": False, "free": None}

    def mark_consistent(self, name: str) -> None:
        """Clear the mark that a holder has died."""
        lock = self.locks.get(name)
        if lock is not None:
            lock.abandoned = False

    def leave(self, peer: Peer) -> None:
        """Have *peer* wait for nothing: nobody is there any more who could be answered."""
        for number in list(peer.requests):
            self.withdraw(peer, number)

    def recover(self, peer: Peer, *, abandoned: bool = True) -> dict[Owner, list[str]]:
        """Free what *peer* has, which has ended; return the names of the locks by their owners.

        Args:
            peer: The process.
            abandoned: Whether to mark the locks as abandoned.
        """
        names: dict[Owner, list[str]] = {}
        for request in peer.granted:
            names.setdefault(request.owner, []).append(request.lock.own_name)
            request.lock.abandoned |= abandoned
        for number in list(peer.requests):
            self.release(peer, number)
        return names

    def drop(self, pool: str) -> None:
        """Forget the locks of a pool that has ended, each as soon as nobody uses it."""
        for lock in [lock for name, lock in self.locks.items() if name.startswith(f"{pool}/")]:
            lock.is_dropped = True
            self._drop_if_idle(lock)

    def _drop_if_idle(self, lock: LockState) -> None:
        if lock.is_dropped and not lock.granted and not lock.queue:
            self.locks.pop(lock.name, None)

    def waiting(self, since: float) -> Iterator[Request]:
        """Yield who has waited since then or longer, for whatever time."""
        for lock in self.locks.values():
            for request in lock.queue:
                if request.since <= since:
                    yield request

    def find_deadlock(self, since: float, awaited: Mapping[Owner, frozenset[Owner]]) -> Deadlock | None:
        """Return waits that can never end, if there are any.

        Args:
            since: When a wait must have begun to be looked at.
            awaited: Of each thread of a client that waits for results, the tasks that have begun and that it
                waits for: it needs all of them.
        """
        waits = {request.owner: request for request in self.waiting(since) if not request.is_timed}
        nodes: dict[Owner, int] = {}

        def node(owner: Owner) -> int:
            return nodes.setdefault(owner, len(nodes))

        needs = {
            node(owner): Needs(frozenset(node(holder.owner) for holder in request.lock.granted))
            for owner, request in waits.items()
        }
        for owner, tasks in awaited.items():
            if owner not in waits and tasks:
                needs[node(owner)] = Needs(frozenset(map(node, tasks)), all_of_them=True)
        ring = find_ring(needs)
        if not ring:
            return None
        found = [request for owner, request in waits.items() if nodes[owner] in ring]
        victim = max(found, key=lambda request: request.since)
        found.remove(victim)
        clients = [owner for owner in awaited if owner not in waits and nodes.get(owner) in ring]
        pids = {
            holder.owner: holder.peer.member.pid
            for request in (victim, *found)
            for holder in request.lock.granted
        }
        return Deadlock(victim, found, [pids[owner] for owner in clients if owner in pids])
