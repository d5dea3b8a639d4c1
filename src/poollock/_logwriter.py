"""LockedLogWriter: one text file that any number of processes append to, a whole record at a time."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self
if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

if sys.platform == "win32":  # not run here: the project's machines have Linux
    import msvcrt

    _FLAGS = os.O_BINARY | os.O_NOINHERIT
    _FAR = 1 << 62  # a byte that no log reaches: Windows locks forbid others to read what is locked

    def _lock_file(fd: int) -> None:
        while True:
            os.lseek(fd, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(fd, msvcrt.LK_LOCK, 1)
            except PermissionError:  # after ten tries, one a second
                continue
            return

    def _unlock_file(fd: int) -> None:
        os.lseek(fd, _FAR, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    _FLAGS = os.O_CLOEXEC

    def _lock_file(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)

    def _unlock_file(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class _OpenFile:
    """This process's own description of the file, and the unfinished records of its threads.

    ``flock`` belongs to the open file description, which threads share: they take the mutex
    first, again if a signal handler writes in the middle of a write.  A forked child shares it
    too, and must open the file anew.
    """

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS, 0o666)
        self.unfinished: dict[threading.Thread, list[str]] = {}
        self._mutex = threading.RLock()
        self._depth = 0

    def append(self, data: bytes) -> None:
        with self._mutex:
            if self.fd < 0:
                raise ValueError("I/O operation on closed file")
            self._depth += 1
            try:
                _lock_file(self.fd)
                written = os.write(self.fd, data)
                while written < len(data):  # the kernel took a part: a signal, or 2 GiB and more
                    written += os.write(self.fd, data[written:])
            finally:
                self._depth -= 1
                if not self._depth:
                    _unlock_file(self.fd)

    def close(self) -> None:
        with self._mutex:  # a descriptor that is closed during a write is soon another file's
            fd, self.fd = self.fd, -1
            os.close(fd)


class Timer:
    """A ``with`` block that is timed, and leaves one line in a log.

    Attributes:
        seconds: How long the block took; 0.0 until it ends.
    """

    def __init__(self, write_record: Callable[[str], None], label: str) -> None:
        self._write_record = write_record
        self._label = label
        self._start = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.seconds = time.monotonic() - self._start
        if error is None:
            line = f"{self._label} cost: {self.seconds:.6f}"
        else:
            line = f"{self._label} failed after {self.seconds:.6f}: {type(error).__name__}: {error}"
        self._write_record(line.replace("\r", " ").replace("\n", " ") + "\n")


class LockedLogWriter(io.TextIOBase):
    r"""A text file that any number of processes append to, a whole record at a time.

    A record is what one ``write`` or ``writelines`` gives, up to its last newline.  A piece
    without a newline waits, for each thread on its own, until the rest of its line arrives or the
    writer is closed; ``flush`` does not cut it, so close the writer before the process ends.
    Lines end in ``\n`` on every platform.

    The writer can be sent to the workers of any pool, as an argument or inside a task function.
    The lock is the operating system's on the file itself (``flock``, ``msvcrt.locking``), which
    ends with the process that has it.

    Args:
        path: The file; it is created if it does not exist, and its directory must exist.
        lock: A lock to hold during each write as well, such as the one that guards the file in
            other code.
        encoding: The name of the encoding.

    Raises:
        OSError: The file cannot be opened.
        LookupError: There is no such encoding.
        ValueError: The encoding writes a byte order mark, which belongs at the start of a file only.
    """

    _file: _OpenFile | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lock: AbstractContextManager[Any] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        if "".encode(encoding):
            raise ValueError(f"the encoding {encoding!r} would put a byte order mark into each record")
        # A spawned worker may be in another directory.
        self._assemble(os.path.abspath(os.fspath(path)), nullcontext() if lock is None else lock, encoding)
        self._opened()

    def _assemble(self, path: str, lock: AbstractContextManager[Any], encoding: str) -> None:
        self._path = path
        self._lock = lock
        self._encoding = encoding
        self._opening = threading.Lock()
        _writers.add(self)

    @property
    def name(self) -> str:
        """The path of the file."""
        return self._path

    @property
    @override
    def encoding(self) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] # read-only at run time
        """The name of the encoding."""
        return self._encoding

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        """Return the descriptor of the file in this process.

        Raises:
            ValueError: The writer is closed.
        """
        return self._opened().fd

    @override
    def write(self, text: str, /) -> int:
        """Write *text*: whole, in one piece, as soon as its line is complete.

        Returns:
            The number of characters.

        Raises:
            ValueError: The writer is closed.
            OSError: The file cannot be written.
        """
        file = self._opened()
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] # not every caller is checked
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        pieces = file.unfinished.setdefault(threading.current_thread(), [])
        end, newline, rest = text.rpartition("\n")
        if newline:
            data = "".join([*pieces, end, newline]).encode(self._encoding)
            pieces.clear()  # now that the encoding accepts them
            self._append_bytes(data)
        if rest:
            pieces.append(rest)
        return len(text)

    @override
    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override] # typeshed: bytes too
        """Write all of *lines*, whole, in one piece."""
        self.write("".join(lines))

    def timed(self, label: str) -> Timer:
        """Return a context manager that writes how long its block took: ``LABEL cost: SECONDS``.

        If the block raises, the line is ``LABEL failed after SECONDS: ERROR``, and the exception
        goes on.  A newline in *label* or in the error is written as a space.
        """
        return Timer(self._append, label)

    @override
    def close(self) -> None:
        """Write the unfinished records, each with a newline, and close the file."""
        if self.closed:
            return
        try:
            if self._file is not None:
                unfinished = ["".join(pieces) for pieces in self._file.unfinished.values() if pieces]
                if unfinished:
                    self._append("".join(f"{text}\n" for text in unfinished))
        finally:
            super().close()
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _append(self, text: str) -> None:
        self._append_bytes(text.encode(self._encoding))

    def _append_bytes(self, data: bytes) -> None:
        with self._lock:
            self._opened().append(data)

    def _opened(self) -> _OpenFile:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._file is None:
            with self._opening:
                if self._file is None:
                    self._file = _OpenFile(self._path)
        return self._file

    def _after_fork(self) -> None:
        # Closing the child's descriptor does not end the parent's lock: flock(2).
        self._opening = threading.Lock()  # a thread of the parent may have had it
        file, self._file = self._file, None
        if file is not None:
            os.close(file.fd)  # not file.close(): a thread of the parent may have had the mutex

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed:
            raise ValueError(f"{self!r} cannot be sent to another process")
        return _received, (type(self), self._path, self._lock, self._encoding)


def _received(
    cls: type[LockedLogWriter], path: str, lock: AbstractContextManager[Any], encoding: str
) -> LockedLogWriter:
    # Opened by the first write: an error here would end a worker of a standard pool.
    writer = cls.__new__(cls)
    writer._assemble(path, lock, encoding)
    return writer


_writers: weakref.WeakSet[LockedLogWriter] = weakref.WeakSet()


def _after_fork() -> None:
    for writer in list(_writers):
        writer._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
