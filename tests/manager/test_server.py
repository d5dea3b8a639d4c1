"""The server alone, a step at a time: what it makes of messages that arrive together."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from poollock._manager import served_lock
from poollock._manager import server as server_module
from poollock._manager.server import LockServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there, it has named pipes")


class Peer:
    """A client that uses lock number 0."""

    def __init__(self, server: LockServer) -> None:
        self.server = server
        self.sock, other = socket.socketpair()
        self.sock.settimeout(0)
        with other:
            server.connect(Connection(os.dup(other.fileno())), 0, os.getpid())

    def says(self, *messages: bytes) -> None:
        for message in messages:
            self.sock.sendall(message + b"\n")

    def hears(self) -> bytes:
        for _ in range(3):
            self.server._serve_requests()
        try:
            return self.sock.recv(100)
        except BlockingIOError:
            return b""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LockServer]:
    monkeypatch.setattr(server_module, "_PARENT_CHECK", 0)  # so that no step waits
    monkeypatch.setattr(served_lock, "_SLICE", 0)
    made: Any = LockServer({}, None, b"key", "pickle")
    made.create_lock(multiprocessing.Pipe()[0], 1, bounded=True)
    yield made
    for client in made._clients.copy():
        made._end(client)
    made.listener.close()


@pytest.fixture
def peers(server: LockServer) -> Iterator[tuple[Peer, Peer]]:
    """Two, of whom the first has the lock."""
    both = Peer(server), Peer(server)
    both[0].says(b"acquire inf")
    assert both[0].hears() == b"1\n"
    yield both
    for peer in both:
        peer.sock.close()


@pytest.mark.parametrize("request_", [b"state", b"acquire 0", b"release_any"])
def test_release_that_is_reported_after_the_question(
    server: LockServer, peers: tuple[Peer, Peer], request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As epoll does now and then; the release was sent first, and who asks may know that."""
    holder, other = peers
    holder.says(b"release")
    other.says(request_)

    def select(timeout: float) -> Any:
        monkeypatch.delattr(server._selector, "select")
        return [each for each in server._selector.select(timeout) if each[0].data.sock is not first]

    (first,) = (client.sock for client in server._clients if client in client.lock._holders)
    monkeypatch.setattr(server._selector, "select", select)
    assert other.hears() == {b"state": b"1 0\n", b"acquire 0": b"1\n", b"release_any": b"0\n"}[request_]


def test_wait_that_is_cancelled(peers: tuple[Peer, Peer]) -> None:
    holder, other = peers
    other.says(b"acquire inf", b"cancel")
    assert other.hears() == b""
    holder.says(b"release", b"state")
    assert holder.hears() == b"1 0\n"


def test_question_that_is_cancelled(peers: tuple[Peer, Peer]) -> None:
    holder, other = peers
    other.says(b"acquire 0", b"cancel")
    holder.says(b"release", b"state")
    assert (holder.hears(), other.hears()) == (b"1 0\n", b"")


def test_message_in_parts(peers: tuple[Peer, Peer]) -> None:
    holder, _ = peers
    holder.sock.sendall(b"sta")
    assert holder.hears() == b""
    holder.sock.sendall(b"te\n")
    assert holder.hears() == b"0 0 %d\n" % os.getpid()


def test_time_limit_of_a_wait_that_ended_in_time_is_not_the_next_ones(
    peers: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(server_module, "monotonic", lambda: now[0])
    holder, other = peers
    other.says(b"acquire 0.1")
    assert other.hears() == b""
    holder.says(b"release", b"acquire inf")
    assert other.hears() == b"1\n"
    other.says(b"release", b"acquire inf")
    assert (other.hears(), holder.hears()) == (b"", b"1\n")
    now[0] += 1
    assert other.hears() == b""
    holder.says(b"release")
    assert other.hears() == b"1\n"


def test_holder_keeps_the_lock_for_its_slice(
    peers: tuple[Peer, Peer], server: LockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = peers
    other.says(b"acquire inf")
    assert other.hears() == b""
    holder.says(b"release", b"acquire inf")
    assert (holder.hears(), other.hears()) == (b"", b"1\n")  # there was no slice left
    monkeypatch.setattr(served_lock, "_SLICE", 60)
    other.says(b"release")
    assert holder.hears() == b"1\n"
    other.says(b"acquire inf")
    assert other.hears() == b""
    for _ in range(3):
        holder.says(b"release", b"acquire inf")
        assert (holder.hears(), other.hears()) == (b"1\n", b"")
    holder.says(b"release")
    assert other.hears() == b"1\n"


def test_holder_that_asks_again_and_dies_has_not_died_holding(peers: tuple[Peer, Peer]) -> None:
    holder, other = peers
    holder.says(b"release", b"acquire inf")
    holder.sock.close()
    other.says(b"state")
    assert other.hears() == b"1 0\n"


def test_dead_client_is_passed_over(peers: tuple[Peer, Peer], server: LockServer) -> None:
    holder, other = peers
    third = Peer(server)
    other.says(b"acquire inf")
    assert other.hears() == b""
    third.says(b"acquire inf")
    other.sock.close()
    holder.says(b"release")
    assert third.hears() == b"1\n"
    third.says(b"state")
    assert third.hears() == b"0 0 %d\n" % os.getpid()
    third.sock.close()
