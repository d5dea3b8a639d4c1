"""How messages are cut into frames, and when a large one is begun."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import socket
import threading
from contextlib import suppress

import pytest

from helpers import wait_until
from poollock._supervisor.worker_handle import WorkerState
from poollock._worker.framing import HEADER, FrameReader, header
from poollock._worker.worker_socket import LAST_BEGUN, WorkerSocket


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 16) - HEADER.size, 1 << 16, 1 << 20, 5 << 20])
def test_frames_arrive_as_they_were_sent(size: int) -> None:
    generator = random.Random(size)
    payloads = [generator.randbytes(size) if size else None, "small", generator.randbytes(100), "last"]
    dumps = map(pickle.dumps, payloads)
    stream = b"".join(header(dumped, number) + dumped for number, dumped in enumerate(dumps))
    ours, theirs = socket.socketpair()
    found: list[tuple[int, object]] = []
    with ours, theirs:
        ours.settimeout(0)
        reader = FrameReader(ours)
        while stream:
            piece = min(len(stream), generator.randrange(1, 50_000))
            theirs.sendall(stream[:piece])
            stream = stream[piece:]
            with suppress(BlockingIOError):  # until all of it has been read
                while reader.receive():
                    found += [(number, pickle.loads(payload)) for number, payload in reader.frames()]
        theirs.close()
        assert not reader.receive()
    assert found == list(enumerate(payloads))


def test_long_task_is_begun_when_a_part_of_it_has_arrived() -> None:
    """Its worker's death costs it then: it is not sent again."""
    state = WorkerState(multiprocessing.get_context())
    pools, workers = socket.socketpair()
    end = WorkerSocket(workers)
    end.open()
    message = header(bytes(1 << 20), 7) + bytes(1 << 20)
    with pools, workers:
        receiver = threading.Thread(target=next, args=(end.tasks(state.words.view, state.lock),))
        receiver.start()
        pools.sendall(message[: 1 << 15])
        wait_until(lambda: state.words.view[LAST_BEGUN] == 7)
        pools.sendall(message[1 << 15 :])
        receiver.join()
