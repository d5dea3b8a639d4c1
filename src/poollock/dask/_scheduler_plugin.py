"""What runs in the scheduler: it keeps the locks, and hears at once when a process ends."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from ._lock_table import LockTable, Message, Owner, Peer, Request
from ._member import PROTOCOL, Member
from ._nanny_plugin import TIMEOUT, confirm_death, is_refusal
from ._task_table import TaskTable, task_owner
from ._wire import Sender, was_closed

logger = logging.getLogger("distributed.poollock")

PATIENCE = 1.0  # seconds before it is looked at whether a wait can ever end: most are over by then


class LockPlugin(SchedulerPlugin):
    """Keeps the locks of all pools of a cluster, and says which task may begin.

    All of it runs in the scheduler's event loop.  It unpickles nothing of the users'.
    """

    name = "poollock"
    idempotent = True  # a second pool uses what is there

    async def start(self, scheduler: Any) -> None:
        """Begin to answer.

        Args:
            scheduler: The scheduler.
        """
        self._scheduler = scheduler
        self._cluster = uuid.uuid4().hex
        self._locks = LockTable()
        self._tasks = TaskTable()
        self._peers: dict[str, Peer] = {}  # by their sessions
        self._unsure: dict[Peer, None] = {}  # connections that ended, and nobody could say why
        self._parked: dict[
            str, list[tuple[Peer, Message]]
        ] = {}  # tasks whose job is not here yet, by session
        self._background: set[asyncio.Task[None]] = set()
        self._checking = False
        scheduler.handlers["poollock"] = self.attend
        scheduler.handlers["poollock_free"] = self.free

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # The connections.

    async def attend(self, comm: Any, member: tuple[Any, ...], protocol: int) -> Status:
        """Serve one process as long as its connection lasts.

        Args:
            comm: The connection.
            member: What the process says of itself.
            protocol: The version of its messages.
        """
        await comm.write([{"cluster": self._cluster, "protocol": PROTOCOL}])
        if protocol != PROTOCOL:
            return Status.dont_reply  # it has been told which one is spoken here
        sender = Sender(comm)
        peer = Peer(Member(*member), sender.put, sender.put_soon)
        self._peers[peer.member.session] = peer
        error: OSError | None = None
        said_goodbye = False
        try:
            while not said_goodbye:
                for message in await comm.read():
                    op = message.pop("op")
                    if op == "goodbye":
                        said_goodbye = True
                        break
                    self._take_in(peer, op, message)
        except OSError as ended:  # a CommClosedError
            error = ended
        finally:
            sender.stop()
            peer.is_gone = True
            self._locks.leave(peer)
            if said_goodbye:
                self._recover(peer, None)
            else:
                self._spawn(self._connection_ended(peer, error))
        return Status.dont_reply

    def _take_in(self, peer: Peer, op: str, message: Message) -> None:
        try:
            getattr(self, f"_on_{op}")(peer, **message)
        except (
            Exception
        ) as error:  # no such error is known; it must not cost the connection, which is the process
            logger.exception("poollock met an error that it should not meet, with %r of %s", op, peer.member)
            if "number" in message:
                peer.send({"re": message["number"], "failed": repr(error)})

    async def _connection_ended(self, peer: Peer, error: OSError | None) -> None:
        """See to it that the process has ended, then free what it had."""
        if not (peer.requests or peer.tasks):
            self._recover(peer, None)
            return
        while True:
            is_dead, code = await self._confirm_death(peer.member, error)
            if is_dead or peer.member.session not in self._peers:
                break
            if peer not in self._unsure:
                self._unsure[peer] = None
                logger.error(
                    "Whether %s has ended, nobody can say; what it has of locks it keeps", peer.member
                )
                for request in self._waiting_for(peer):
                    self._locks.withdraw(request.peer, request.number)
                    request.peer.send({"re": request.number, "ok": None, "out_of_reach": _holder_of(peer)})
            await asyncio.sleep(TIMEOUT)
        self._recover(peer, code)

    async def _confirm_death(self, member: Member, error: OSError | None) -> tuple[bool, int | None]:
        """Return whether the process has ended, for sure, and its exit code."""
        if member.nanny:
            try:
                return True, await confirm_death(member.nanny, member.pid, self._scheduler.connection_args)
            except Exception as reason:  # noqa: BLE001 - the nanny's own errors come here, too
                logger.warning("The nanny of %s does not answer: %r", member, reason)
                # A worker ends with its nanny.  If neither is there, as their host says, both are dead.
                return is_refusal(reason) and was_closed(error), None
        # Without a nanny: what the host's system says is believed, and silence says nothing.
        return was_closed(error), None

    def _waiting_for(self, peer: Peer) -> list[Request]:
        return [waiting for request in peer.granted for waiting in request.lock.queue]

    def _recover(self, peer: Peer, code: int | None) -> None:
        """Free what a process has, which has ended, and tell whose tasks it ran."""
        if self._peers.pop(peer.member.session, None) is None:
            return  # somebody has said that it is dead, and it has been confirmed since
        self._unsure.pop(peer, None)
        held = self._locks.recover(peer)
        for job, index in list(peer.tasks):
            owner = self._tasks.end(peer, job, index)
            if owner is not None:
                names = held.get((peer.member.session, task_owner(job, index)), [])
                died = {
                    "op": "died",
                    "job": job,
                    "index": index,
                    "member": peer.member,
                    "code": code,
                    "locks": names,
                }
                owner.send(died)
        self._tasks.leave(peer)
        for waiting, message in self._parked.pop(peer.member.session, []):
            waiting.send({"re": message["number"], "ok": False})

    async def free(self, name: str) -> bool:
        """Free a lock whose holder nobody can reach, because somebody knows that it is dead.

        Args:
            name: The lock.

        Returns:
            Whether there was such a holder.
        """
        dead = [peer for peer in self._unsure if any(each.lock.name == name for each in peer.granted)]
        for peer in dead:
            self._recover(peer, None)
        return bool(dead)

    # The locks.

    def _on_acquire(
        self,
        peer: Peer,
        *,
        number: int,
        name: str,
        permits: int,
        timeout: float | None,
        owner: str,
        task: str,
    ) -> None:
        got = self._locks.acquire(
            peer, number, name, permits=permits, owner=owner, task=task, now=monotonic(), timeout=timeout
        )
        if got is not None:
            peer.send({"re": number, "ok": got, **({} if got else self._locks.describe(name))})
            return
        lost = [holder.peer for holder in peer.requests[number].lock.granted if holder.peer in self._unsure]
        if lost:
            self._locks.withdraw(peer, number)
            peer.send({"re": number, "ok": None, "out_of_reach": _holder_of(lost[0])})
        elif timeout is None:
            self._check_soon()
        else:
            asyncio.get_running_loop().call_later(timeout, self._time_is_up, peer, number, name)

    def _time_is_up(self, peer: Peer, number: int, name: str) -> None:
        if self._locks.withdraw(peer, number) is not None:
            peer.send({"re": number, "ok": False, **self._locks.describe(name)})

    def _on_release(self, peer: Peer, number: int) -> None:
        self._locks.release(peer, number)

    def _on_describe(self, peer: Peer, number: int, name: str) -> None:
        peer.send({"re": number, **self._locks.describe(name)})

    def _on_mark_consistent(self, peer: Peer, name: str) -> None:
        self._locks.mark_consistent(name)

    def _on_drop(self, peer: Peer, pool: str) -> None:
        self._locks.drop(pool)

    def _on_waits(self, peer: Peer, number: int, pool: str) -> None:
        now = monotonic()
        waiting = self._locks.waiting(now - PATIENCE)
        waits = [
            _describe_wait(request, now) for request in waiting if request.lock.name.startswith(f"{pool}/")
        ]
        peer.send({"re": number, "waits": waits})

    # Deadlocks.  The tables change only by what arrives here, so a ring in them is one.

    def _check_soon(self) -> None:
        if not self._checking:
            self._checking = True
            asyncio.get_running_loop().call_later(PATIENCE, self._check_for_deadlock)

    def _check_for_deadlock(self) -> None:
        self._checking = False
        self._tell_victim({})
        asked = dict[Peer, set[str]]()
        for lock in self._locks.locks.values():
            if any(not request.is_timed for request in lock.queue):
                self._check_soon()
                for holder in lock.granted:
                    if not holder.task and not holder.peer.member.worker:
                        asked.setdefault(holder.peer, set()).add(holder.owner[1])
        for peer, threads in asked.items():
            peer.send({"op": "awaiting", "threads": list(threads)})

    def _on_awaiting(self, peer: Peer, jobs: dict[str, str]) -> None:
        """Take in for the results of which jobs threads of a client wait, and check with that."""
        awaited: dict[Owner, frozenset[Owner]] = {}
        for thread, job in jobs.items():
            state = self._tasks.jobs.get(job)
            begun = state.begun if state is not None else {}
            awaited[peer.member.session, thread] = frozenset(
                (runner.member.session, task_owner(job, index))
                for index, runner in begun.items()
                if runner is not None
            )
        self._tell_victim(awaited)

    def _tell_victim(self, awaited: dict[Owner, frozenset[Owner]]) -> None:
        now = monotonic()
        found = self._locks.find_deadlock(now - PATIENCE, awaited)
        if found is None:
            return
        waits = [_describe_wait(request, now) for request in (found.victim, *found.others)]
        victim = found.victim
        self._locks.withdraw(victim.peer, victim.number)
        victim.peer.send(
            {"re": victim.number, "ok": None, "deadlock": waits, "client": next(iter(found.clients), 0)}
        )

    # The tasks.

    def _on_job(self, peer: Peer, job: str, function: bytes) -> None:
        self._tasks.add(job, peer, function)
        for waiting, message in self._parked.pop(peer.member.session, []):
            if not waiting.is_gone:  # else Dask gives the task to another worker
                self._on_begin(waiting, **message)

    def _on_forget_job(self, peer: Peer, job: str) -> None:
        self._tasks.jobs.pop(job, None)

    def _on_begin(
        self, peer: Peer, *, number: int, client: str, job: str, index: int, task: str, knows_function: bool
    ) -> None:
        owner = self._peers.get(client)
        if owner is not None and job not in self._tasks.jobs and self._tasks.is_expected(job, owner):
            # The task has come by the client's other connection, and was faster.
            message = {"number": number, "client": client, "job": job, "index": index, "task": task}
            self._parked.setdefault(client, []).append((peer, {**message, "knows_function": knows_function}))
            return
        # A task that nobody wants any more, its outcome being known, may still come to a second worker.
        begins = (job, index) in self._scheduler.tasks and self._tasks.begin(peer, job, index, task)
        function = None if knows_function or not begins else self._tasks.jobs[job].function
        peer.send({"re": number, "ok": begins, "function": function})

    def _on_end(self, peer: Peer, job: str, index: int, outcome: bytes) -> None:
        owner = self._tasks.end(peer, job, index)
        if owner is not None:
            owner.send_soon({"op": "ended", "job": job, "index": index, "outcome": outcome})
        if (job, index) not in self._scheduler.tasks:
            self._tasks.forget(job, index)

    def _on_end_large(self, peer: Peer, number: int, job: str, index: int, worker: str) -> None:
        """Say whether Dask is to keep the outcome of a task: not if it has given the worker up."""
        task = self._scheduler.tasks.get((job, index))
        keep = task is not None and task.processing_on is not None and task.processing_on.address == worker
        if keep:
            owner = self._tasks.end(peer, job, index)
            if owner is not None:
                owner.send({"op": "look", "job": job, "index": index, "member": peer.member})
        peer.send({"re": number, "ok": keep})

    def _on_withdraw(self, peer: Peer, number: int, job: str, index: int) -> None:
        peer.send({"re": number, "ok": self._tasks.withdraw(job, index)})

    def _on_has_begun(self, peer: Peer, number: int, job: str, index: int) -> None:
        state = self._tasks.jobs.get(job)
        peer.send({"re": number, "ok": state is not None and index in state.begun})

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Take in what Dask makes of a task.

        Args:
            key: The task's key.
            start: The state that it was in.
            finish: The state that it is in now.
            args: What else Dask says.
            kwargs: The same.
        """
        try:
            job, index = key
        except (TypeError, ValueError):  # it is none of ours
            return
        state = self._tasks.jobs.get(job)
        if state is None:
            return
        if index in state.begun:
            if finish == "forgotten":
                self._tasks.forget(job, index)
        elif finish == "processing":
            task = self._scheduler.tasks.get(key)
            if task is not None:
                # Dask gives a task up whose workers died a few times, though it had not begun in any of them.
                task.suspicious = -1
        elif finish == "erred":
            state.owner.send({"op": "look", "job": job, "index": index, "member": None})
        elif finish == "forgotten":
            state.owner.send({"op": "cancelled", "job": job, "index": index})


def _holder_of(peer: Peer) -> tuple[int, str, str, str]:
    return peer.member.pid, peer.member.host, peer.member.worker, ""


def _describe_wait(request: Request, now: float) -> Message:
    return {
        "task": request.task or "a thread",
        "process": _holder_of(request.peer),
        "lock": request.lock.own_name,
        "holders": [holder.holder for holder in request.lock.granted],
        "seconds": now - request.since,
    }
