"""Pairs of sockets, and how one end comes to a process that is being started."""

from __future__ import annotations

import socket
import sys
from multiprocessing.context import get_spawning_popen
from typing import Any

if sys.platform == "win32":

    def socket_pair() -> tuple[socket.socket, socket.socket]:
        """Return two connected sockets."""
        pair = socket.socketpair()
        for end in pair:  # TCP: it would keep a small message back until the one before is acknowledged
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return pair

    def socket_for_child(sock: socket.socket) -> Any:
        """Return what to send, instead of a socket, to the process that is being started.

        multiprocessing would send the address of a thread of this process, from which the other fetches
        the socket; if it ended before it did, the socket would stay open here.
        """
        child: Any = get_spawning_popen()
        return sock.share(child.pid)

    def socket_from_parent(sent: Any) -> socket.socket:
        """Return the socket for which the parent has sent *sent*."""
        return socket.fromshare(sent)
else:
    from socket import socketpair as socket_pair

    def socket_for_child(sock: socket.socket) -> Any:
        """Return what to send to the process that is being started: multiprocessing can send a socket."""
        return sock

    def socket_from_parent(sent: Any) -> socket.socket:
        """Return the socket for which the parent has sent *sent*."""
        received: socket.socket = sent
        return received


__all__ = ["socket_for_child", "socket_from_parent", "socket_pair"]
