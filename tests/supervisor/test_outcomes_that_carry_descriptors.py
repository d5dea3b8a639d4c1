"""An error or a result that carries a descriptor can be unpickled once: by whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

import pytest

from poollock import LockedPool


class CarrierError(Exception):
    """An error with something that the handler needs."""


def connection_with_a_word() -> Connection[Any, Any]:
    ours, theirs = Pipe()
    theirs.send("word")
    theirs.close()
    return ours


def raise_with_connection(_: object = None) -> NoReturn:
    raise CarrierError(connection_with_a_word())


def test_error_with_a_connection(pool: LockedPool) -> None:
    calls: list[Callable[[], object]] = [
        partial(pool.apply, raise_with_connection),
        partial(pool.map, raise_with_connection, [1]),
    ]
    for call in calls:
        with pytest.raises(CarrierError) as caught:
            call()
        connection: Any = caught.value.args[0]
        with connection:
            assert connection.recv() == "word"


def test_result_with_a_connection(pool: LockedPool) -> None:
    with pool.apply(connection_with_a_word) as connection:
        assert connection.recv() == "word"
