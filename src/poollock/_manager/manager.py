"""LockManager: starts and ends the process in which the locks of a manager_locked_pool live."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from multiprocessing import connection, managers
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, Server
from typing import Any, ClassVar, NoReturn

from poollock._backend.describe import describe, describe_exit, show_error
from poollock._backend.fork import no_program_starting
from poollock._backend.process import exit_code
from poollock._backend.signals import reset_sigterm
from poollock._errors import ManagerDiedError
from poollock._typing import override

from .connection import HAS_SOCKETS, LockToken, close_idle
from .named_pipe import PipeContext
from .server import LockServer, remove_directory

# Bytes.  The address of a socket may have 103 on macOS and 107 on Linux, and 25 are added to this.
_LONGEST_DIRECTORY = 78


class LockManager(BaseManager):
    """The process that serves the locks of one pool; it ends when the process that made it does.

    Args:
        ctx: The context that starts the process.
    """

    _Server: ClassVar[type[Server]] = LockServer

    def __init__(self, ctx: BaseContext) -> None:
        self._key = os.urandom(32)
        self._start_context = ctx
        starts: Any = ctx if HAS_SOCKETS else PipeContext(ctx)
        super().__init__(authkey=self._key, ctx=starts)

    @override
    def start(self) -> None:  # type: ignore[override] # one way to start it
        address = self._address = os.path.join(_make_directory(), "socket") if HAS_SOCKETS else None
        try:
            with no_program_starting(self._start_context):
                super().start()
        except BaseException as error:
            remove_directory(address)
            if isinstance(error, (ConnectionError, EOFError)) and not isinstance(error, ManagerDiedError):
                raise self._ended_early() from error
            raise

    @classmethod
    def _run_server(
        cls, registry: Any, address: Any, authkey: Any, serializer: str, writer: Any, *rest: Any
    ) -> None:
        standard: Any = super()
        reset_sigterm()
        try:
            standard._run_server(registry, address, authkey, serializer, writer, *rest)
        except Exception as error:
            with suppress(OSError):  # it was ready, and has closed the pipe
                writer.send(_StartFailure(error))
            raise

    def _ended_early(self) -> ManagerDiedError:
        this: Any = self  # _process is not in typeshed
        code = exit_code(this._process) if this._process._popen else None
        message = f"the manager process, started by {describe()}, {describe_exit(code)}, before it was ready"
        if code and code > 0:
            message += (
                "; its traceback is on the standard error stream. With the start methods 'spawn' and "
                "'forkserver' it imports the main module, which must not fail then"
            )
        return ManagerDiedError(message)

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


class _StartFailure:
    """Why the manager cannot serve.  It is sent in place of the address, and unpickling it raises an error.

    Args:
        error: What has happened in the manager.
    """

    def __init__(self, error: Exception) -> None:
        self._message = f"the manager, {describe()}, has failed before it was ready: {show_error(error)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail, (self._message,)


def _fail(message: str) -> NoReturn:
    raise ManagerDiedError(message)


def _make_directory() -> str:
    """Make a directory for the socket, which nobody else may enter.

    Raises:
        OSError: There is no place for it.
    """
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) <= _LONGEST_DIRECTORY:
        return tempfile.mkdtemp(prefix="poollock-", dir=place)
    try:
        return tempfile.mkdtemp(prefix="poollock-", dir="/tmp")
    except OSError as error:
        raise OSError(
            error.errno,
            f"there is no place for the manager's socket: the name of the temporary directory, {place!r}, is "
            f"longer than {_LONGEST_DIRECTORY} bytes, and in '/tmp': {error.strerror}",
        ) from error
