"""What runs in each nanny: it makes sure that a worker process has ended, and says how."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from contextlib import suppress
from typing import Any

from distributed.diagnostics.plugin import NannyPlugin

from ._dask import rpc
from ._wire import error_number

TIMEOUT = 5.0  # seconds for a nanny to answer
_EXIT_CODES = 8  # of the last worker processes
_POLL_INTERVAL = 0.002  # seconds


class ConfirmDeathPlugin(NannyPlugin):
    """Lets the scheduler ask a nanny to make sure that a worker process has ended."""

    name = "poollock-confirm-death"
    idempotent = True

    def setup(self, nanny: Any) -> None:
        """Add the handler, and listen to exit codes: Dask's own nanny logs them only."""
        codes: deque[int] = deque(maxlen=_EXIT_CODES)

        async def listen() -> None:
            while nanny.process is None:  # noqa: ASYNC110 - a nanny that has just been started tells nobody
                await asyncio.sleep(_POLL_INTERVAL)
            process, on_exit = nanny.process, nanny.process.on_exit

            def note(code: int) -> None:
                codes.append(code)
                on_exit(code)

            process.on_exit = note

        def is_there(pid: int) -> Any:
            process = nanny.process and nanny.process.process
            return process if process is not None and process.pid == pid else None

        async def confirm_death(pid: int) -> int | None:
            """End the worker process *pid* if it has not ended; return its exit code, if it is known."""
            process = is_there(pid)
            if process is not None:
                with suppress(ValueError):  # the nanny is done with it
                    await process.kill()
                while is_there(pid) is not None:  # noqa: ASYNC110 - until the nanny has taken it in, which it tells nobody
                    await asyncio.sleep(_POLL_INTERVAL)
            return codes[-1] if codes else None

        self._listening = asyncio.ensure_future(listen())
        nanny.handlers["poollock_confirm_death"] = confirm_death


async def confirm_death(nanny: str, pid: int, connection_args: dict[str, Any]) -> int | None:
    """Have the nanny at the address *nanny* end its worker process *pid*, if it lives.

    Args:
        nanny: The nanny's address.
        pid: The process.
        connection_args: How to connect.

    Returns:
        The exit code of the process, if it is known.

    Raises:
        OSError: The nanny does not answer.
        asyncio.TimeoutError: The same.
    """
    await _knock(nanny)
    remote = rpc(nanny, timeout=TIMEOUT, connection_args=connection_args)
    async with remote:
        code: int | None = await asyncio.wait_for(remote.poollock_confirm_death(pid=pid), TIMEOUT)
        return code


def is_refusal(error: BaseException) -> bool:
    """Return whether *error* is that nobody listens at the nanny's address, as its host says."""
    return error_number(error) == errno.ECONNREFUSED


async def _knock(address: str) -> None:
    """Raise ConnectionRefusedError at once if nobody listens there: Dask would try again for seconds."""
    scheme, _, place = address.partition("://")
    if scheme in {"tcp", "tls"}:
        host, _, port = place.rpartition(":")
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), TIMEOUT)
        writer.close()
