"""LockManager: starts and ends the process in which the locks of a manager_locked_pool live."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import connection, managers
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, Server
from typing import Any, ClassVar

from poollock._backend.describe import describe, describe_exit
from poollock._backend.process import exit_code
from poollock._errors import ManagerDiedError
from poollock._typing import override

from .connection import HAS_SOCKETS, LockToken, close_idle
from .server import LockServer, remove_directory


class LockManager(BaseManager):
    """The process that serves the locks of one pool; it ends when the process that made it does.

    Args:
        ctx: The context that starts the process.
    """

    _Server: ClassVar[type[Server]] = LockServer

    def __init__(self, ctx: BaseContext) -> None:
        self._key = os.urandom(32)
        super().__init__(authkey=self._key, ctx=ctx)

    @override
    def start(self) -> None:  # type: ignore[override] # one way to start it
        address = self._address = (
            os.path.join(tempfile.mkdtemp(prefix="poollock-"), "socket") if HAS_SOCKETS else None
        )
        try:
            super().start()
        except BaseException as error:
            remove_directory(address)
            if isinstance(error, (ConnectionError, EOFError)):
                raise self._ended_early() from error
            raise

    def _ended_early(self) -> ManagerDiedError:
        this: Any = self  # _process is not in typeshed
        code = exit_code(this._process) if this._process._popen else None
        return ManagerDiedError(
            f"the manager process that {describe()} started {describe_exit(code)}, before it was ready. "
            "It must be able to import the main module, and needs memory to start"
        )

    def end(self) -> None:
        """End the process, even if Ctrl-C comes between: this one waits for it when it exits."""
        try:
            self.shutdown()
        except BaseException:
            this: Any = self  # _process is not in typeshed
            this._process.kill()
            remove_directory(self.address)
            raise

    def create(self, value: int, *, bounded: bool) -> LockToken:
        """Make a lock in the server; return which one it is."""
        address: Any = self.address
        standard: Any = managers  # dispatch is not in typeshed
        with connection.Client(address, authkey=self._key) as client:
            number = standard.dispatch(client, None, "create_lock", (value, bounded))
        return address, self._key, number

    @staticmethod
    def _finalize_manager(process: Any, address: Any, *rest: Any) -> None:
        standard: Any = BaseManager
        standard._finalize_manager(process, address, *rest)
        remove_directory(address)  # if the manager was killed, it left its socket
        close_idle(address)
