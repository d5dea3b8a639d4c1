"""A process's connection to the scheduler's plugin; it lasts as long as the process."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
import threading
import uuid
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from poollock._backend.describe import describe, show_error
from poollock._errors import DeadlockError, LockWait, PoolLockError

from ._dask import connect, get_client, get_worker
from ._lock_table import Message
from ._member import PROTOCOL, Holder, Member
from ._task_table import job_name
from ._wire import Sender

if TYPE_CHECKING:
    from ._locks import Grant

_CONNECT_TIMEOUT = 30.0  # seconds
_LOST_CONNECTION = 70  # the exit code of a worker that ends itself

# The sessions of this process, by the id of the cluster, and by the scheduler's address.
_by_cluster: dict[str, Session] = {}
_by_address: dict[str, Session] = {}
_opening = threading.RLock()


class Route(Protocol):
    """A pool's side of a session: where the messages for its jobs go."""

    @abstractmethod
    def receive(self, message: Message, /) -> object:
        """Take in a message about a task.  The event loop's thread calls this."""

    @abstractmethod
    def connection_lost(self, reason: str, /) -> object:
        """Take in that no more messages will come.  The event loop's thread calls this."""

    @abstractmethod
    def awaited_jobs(self, threads: list[str], /) -> Mapping[str, str]:
        """Return for which job's results each of *threads* waits, if it does; called as the others are."""


class _Reply:
    """The answer to a request."""

    __slots__ = ("_arrived", "message")

    def __init__(self) -> None:
        self._arrived = threading.Lock()
        self._arrived.acquire()
        self.message: Message = {}

    def set(self, message: Message) -> None:
        """Let go whoever waits."""
        self.message = message
        with suppress(RuntimeError):  # it was set before
            self._arrived.release()

    def wait(self, timeout: float = -1) -> Message:
        """Wait for the answer, *timeout* seconds at most if that is given, and return what there is."""
        self._arrived.acquire(timeout=timeout)
        return self.message


class Session:
    """The connection of this process to a cluster.

    Args:
        node: The worker or the client whose event loop carries the connection.
        address: The scheduler's address.
        connection_args: How to connect.
        member: What this process says of itself.

    Attributes:
        cluster: The id of the cluster.
        member: What this process says of itself.
        lost: Why there is no connection any more; empty if there is one.
        grants: What this process has of locks, by the locks' names in the cluster.
        running: How many tasks run in this process.
        functions: The functions of the last jobs, as bytes.
    """

    def __init__(self, node: Any, address: str, connection_args: Mapping[str, Any], member: Member) -> None:
        self.cluster = ""
        self.member = member
        self.lost = ""
        self.grants: dict[str, list[Grant]] = {}
        self.running = 0
        self.functions: dict[str, bytes] = {}
        self._address = address
        self._connection_args = connection_args
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop = node.loop.asyncio_loop
        self._numbers = itertools.count(1)
        self._jobs = itertools.count(1)
        self._replies: dict[int, _Reply] = {}
        self._routes: weakref.WeakValueDictionary[str, Route] = weakref.WeakValueDictionary()  # by job
        self._closing = False
        self._check_thread()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_CONNECT_TIMEOUT)
        _sessions.add(self)

    async def _open(self) -> None:
        self._comm: Any = await connect(self._address, **self._connection_args)
        self._comm.name = "poollock"
        await self._comm.write({"op": "poollock", "member": tuple(self.member), "protocol": PROTOCOL})
        answer: Any = await self._comm.read()
        if isinstance(answer, dict) or not answer:
            self._comm.abort()
            raise PoolLockError(
                f"the scheduler at {self._address} has no plugin of poollock: {answer!r:.200}"
            )
        if answer[0]["protocol"] != PROTOCOL:
            self._comm.abort()
            raise PoolLockError(
                f"the scheduler at {self._address} speaks version {answer[0]['protocol']} of poollock's "
                f"messages, and {describe()} version {PROTOCOL}: install the same poollock everywhere, then "
                "restart the scheduler"
            )
        cluster: str = answer[0]["cluster"]
        self.cluster = cluster
        self._sender = Sender(self._comm)
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        reason: BaseException
        try:
            while True:
                for message in await self._comm.read():
                    self._receive(message)
        except (OSError, asyncio.CancelledError) as error:  # a CommClosedError among them
            reason = error
        self._sender.stop()
        if self.member.worker and not self.member.nanny and self.running and not self._closing:
            self._end_this_worker()
        self.lost = f"the connection to the scheduler at {self._address} has ended ({show_error(reason)})"
        for reply in list(self._replies.values()):
            reply.set({"lost": True})
        for route in set(self._routes.values()):
            route.connection_lost(self.lost)

    def _end_this_worker(self) -> None:
        """End this process: the scheduler takes it for dead, and no nanny will make sure of that."""
        if sys.is_finalizing():
            return
        with suppress(OSError):
            os.write(
                2,
                b"poollock: this worker lost its connection to the scheduler in a task; it ends\n",
            )
        os._exit(_LOST_CONNECTION)

    def _receive(self, message: Message) -> None:
        if "re" in message:
            reply = self._replies.pop(message["re"], None)
            if reply is not None:
                reply.set(message)
        elif message["op"] == "awaiting":
            jobs: dict[str, str] = {}
            for route in set(self._routes.values()):
                jobs.update(route.awaited_jobs(message["threads"]))
            self._sender.put({"op": "awaiting", "jobs": jobs})
        else:
            route_of_job = self._routes.get(message["job"])
            if route_of_job is not None:
                route_of_job.receive(message)

    def add_job(self, function_name: str, function: bytes, route: Route) -> str:
        """Tell of a new job, and return its name.

        Args:
            function_name: What a message calls its function.
            function: Its function, as bytes.
            route: Where the messages about it go.

        Raises:
            PoolLockError: The connection has ended.
        """
        job = job_name(function_name, self.member.session, next(self._jobs))
        self._routes[job] = route
        self.tell("job", job=job, function=function)
        return job

    def forget(self, job: str) -> None:
        """Take in no more messages about *job*, and have no more of its tasks begin."""
        self._routes.pop(job, None)
        with suppress(PoolLockError):
            self.tell("forget_job", job=job)

    def tell(self, op: str, **message: Any) -> None:
        """Send a message that has no answer; they arrive in the order in which they are sent.

        Args:
            op: What it is.
            message: The rest of it.

        Raises:
            PoolLockError: The connection has ended.
        """
        if self.lost:
            raise PoolLockError(self.lost)
        message["op"] = op
        try:
            self._loop.call_soon_threadsafe(self._sender.put, message)
        except RuntimeError as error:  # the client was closed
            self.lost = f"the event loop of the client or worker has ended ({error})"
            raise PoolLockError(self.lost) from None

    def ask(self, op: str, **message: Any) -> Message:
        """Send a message and return the answer to it, which also has its ``number``.

        If this is interrupted, an ``acquire`` is taken back.

        Args:
            op: What it is.
            message: The rest of it.

        Raises:
            PoolLockError: The connection has ended.
            DeadlockError: The wait for a lock could never end.
        """
        self._check_thread()
        number = next(self._numbers)
        reply = self._replies[number] = _Reply()
        try:
            self.tell(op, number=number, **message)
            if self.lost:  # it may have ended before the reply was noted
                reply.set({"lost": True})
            answer = reply.wait()
        except BaseException:
            self._replies.pop(number, None)
            if op == "acquire":
                with suppress(PoolLockError):
                    self.tell("release", number=number)
            raise
        if "lost" in answer:
            raise PoolLockError(self.lost)
        if "failed" in answer:
            raise PoolLockError(f"poollock's plugin in the scheduler met an error: {answer['failed']}")
        if "deadlock" in answer:
            waits = tuple(map(_wait_of, answer["deadlock"]))
            raise DeadlockError(waits, answer["client"])
        answer["number"] = number
        return answer

    def flush(self, timeout: float) -> None:
        """Wait, *timeout* seconds at most, until the scheduler has taken in what was sent.

        Args:
            timeout: Seconds.

        Raises:
            PoolLockError: The connection has ended.
        """
        number = next(self._numbers)
        reply = self._replies[number] = _Reply()
        try:
            self.tell("waits", number=number, pool="")  # of no pool: the answer is all that is wanted
            reply.wait(timeout)
        finally:
            self._replies.pop(number, None)

    def _check_thread(self) -> None:
        """Raise if the running thread is the one that carries the connection: it would wait for itself."""
        if self._pid != os.getpid():
            raise PoolLockError(
                f"{describe()} was forked from process {self._pid}, whose connection to the Dask scheduler "
                "it cannot use: take the lock in a task, or in the process that made the client"
            )
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise PoolLockError(
                    "a coroutine in Dask's own event loop cannot wait for a lock: use a thread"
                )

    def close(self) -> None:
        """End the connection; what this process has of locks becomes free."""
        self._closing = True

        async def say_goodbye() -> None:
            self._sender.put({"op": "goodbye"})
            await self._sender.drain()
            self._reader.cancel()
            self._comm.abort()

        discard(self)
        with suppress(Exception):  # the loop may have ended, and the scheduler too
            asyncio.run_coroutine_threadsafe(say_goodbye(), self._loop).result(2)

    def close_after_fork(self) -> None:
        """Close this copy of the socket: the scheduler is to see it end when its process ends."""
        with suppress(Exception):  # what it is made of is private
            self._comm.stream.socket.close()


def _wait_of(wait: Message) -> LockWait:
    holders = tuple(Holder(*holder) for holder in wait["holders"])
    return LockWait(
        wait["task"], Holder(*wait["process"]), f"lock {wait['lock']!r}", holders, wait["seconds"]
    )


def waits_of(answer: Message) -> list[LockWait]:
    """Return the waits that the scheduler tells of, the longest first."""
    return sorted(map(_wait_of, answer["waits"]), key=lambda wait: -wait.seconds)


def client_session(client: Any) -> Session:
    """Return the session of this process, through *client*."""
    return _session(client, client.scheduler.address, client.security.get_connection_args("client"), "", "")


def session_here() -> Session:
    """Return the session of this process, through the worker or the client at hand.

    Raises:
        PoolLockError: There is neither.
    """
    try:
        worker = get_worker()
    except ValueError:
        pass
    else:
        arguments = worker.security.get_connection_args("worker")
        return _session(worker, worker.scheduler.address, arguments, worker.address, worker.nanny or "")
    try:
        return client_session(get_client())
    except ValueError:
        raise PoolLockError(
            "a lock of a Dask pool is used where there is neither a worker nor a client"
        ) from None


def session_of(cluster: str) -> Session:
    """Return the session of this process with *cluster*.

    Raises:
        PoolLockError: There is none, or no way to it.
    """
    session = _by_cluster.get(cluster)
    if session is None or session.lost:
        session = session_here()
        if session.cluster != cluster:
            raise PoolLockError(
                "this lock belongs to a pool of another cluster, or of a scheduler that has ended"
            )
    return session


def _session(node: Any, address: str, connection_args: Mapping[str, Any], worker: str, nanny: str) -> Session:
    session = _by_address.get(address)
    if session is not None and not session.lost and session._pid == os.getpid():
        return session
    with _opening:
        session = _by_address.get(address)
        if session is None or session.lost or session._pid != os.getpid():
            member = Member(uuid.uuid4().hex, os.getpid(), socket.gethostname(), worker, nanny)
            session = Session(node, address, connection_args, member)
            _by_address[address] = _by_cluster[session.cluster] = session
    return session


def discard(session: Session) -> None:
    """Have whoever asks next open another session."""
    for sessions in (_by_address, _by_cluster):
        for key in [key for key, each in sessions.items() if each is session]:
            sessions.pop(key, None)


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _close_after_fork() -> None:
    for session in list(_sessions):
        session.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
