"""LockedLogWriter: one text file that any number of processes append to, a whole record at a time."""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from multiprocessing.util import Finalize
from typing import Any, TextIO

from poollock._typing import Self, override

from .console import CONSOLES, Console, stream_of, target_of
from .log_file import LogFile
from .opening import is_at_path, reopen_log
from .options import LogOptions
from .sink import Sink
from .timer import Timer


class LockedLogWriter(io.TextIOBase):
    r"""A text file that any number of processes append to, a whole record at a time.

    A record is what one ``write`` or ``writelines`` gives.  Text that does not end in a newline
    waits, for each thread on its own, until the rest of its line arrives, or the writer is closed: what
    ``print`` writes in pieces is one record, which ``flush`` does not cut.  It is closed, too, when the
    process ends, and in a worker when the task ends that got it as an argument.

    The writer can be sent to the workers of any pool, as an argument or inside a task function.
    The lock is the operating system's on the file itself (``flock``, ``LockFileEx``), which
    ends with the process that has it.  A file that another program renames or removes is left, and
    the next record goes to the one that is at *path* then.

    Args:
        path: The file, which is created if it does not exist; its directory must.  A named pipe or a
            device, such as ``/dev/stdout``, is written to as ``open`` would; it never rotates.  Or
            ``sys.stdout`` or ``sys.stderr``, which is that of each process that writes, whether it is
            a file or, as in a notebook, an object that shows what is written to it.
        lock: A lock to hold during each write as well.  All who write must share it if the file
            system has no locks.
        encoding: The name of the encoding.
        errors: What becomes of text that cannot be encoded, as for ``open``.
        newline: What a newline is written as, as for ``open``.
        max_bytes: Bytes.  A record that would make the file larger than this goes to a new one, the old
            one is renamed to ``path.1``, that to ``path.2`` and so on.  A larger record has a file
            of its own.  The new file has the mode of the old one, and its owner where that is permitted.
            If the file cannot be renamed it grows on, and a ``RuntimeWarning`` says why, once for each
            writer and process.  0 is no limit.
        backup_count: How many renamed files are kept.  With 0 there is no limit to the file, as
            with ``logging.handlers.RotatingFileHandler``.
        fsync: Whether ``write`` returns only when the record is on the disk.

    Raises:
        OSError: The file cannot be opened, its file system has no locks, or *fsync* is asked for what is
            no file.
        LookupError: There is no such encoding, or no such error handler.
        TypeError: An argument is not of its kind.
        ValueError: A number is negative, *newline* is none that ``open`` knows, a console is to rotate
            or to be on a disk, or this process has none; or the encoding writes a byte order mark,
            which belongs at the start of a file only.
    """

    __module__ = "poollock"

    __slots__ = ("_append", "_encode", "_unfinished")  # found sooner than in the instance's dict

    _stream: Any = None  # the stream that the user gave, in the process where that was
    _descriptor = -1  # what fileno() returns; -1 until it is called

    def __init__(
        self,
        path: str | os.PathLike[str] | TextIO,
        *,
        lock: AbstractContextManager[Any] | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
        newline: str | None = None,
        max_bytes: int = 0,
        backup_count: int = 0,
        fsync: bool = False,
    ) -> None:
        target = target_of(path)
        self._stream = path if target in CONSOLES else None
        self._configure(LogOptions(target, lock, encoding, errors, newline, max_bytes, backup_count, fsync))
        self._ensure_open()

    def _reset(self) -> None:
        """Be a writer that has not opened its file and has no unfinished text."""
        self._file: Sink | None = None
        self._opening = threading.RLock()
        self._unfinished: dict[threading.Thread, list[bytes]] = {}
        self._append: Callable[[bytes], None] = self._open_and_append

    def _configure(self, options: LogOptions) -> None:
        self._options = options = options.checked()
        self._encode = options.encoder()
        self._reset()
        _writers.add(self)

    @property
    def name(self) -> str:
        """The path of the file; ``<stdout>`` or ``<stderr>`` for a console."""
        return self._options.target

    @property
    @override
    def encoding(self) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] # read-only at run time
        """The name of the encoding."""
        return self._options.encoding

    @property
    @override
    def errors(self) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride] # the same
        """What becomes of text that cannot be encoded."""
        return self._options.errors

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        """Return a descriptor of the file in this process, for a child process, say.

        What is written to it goes to the end of the file, without the lock.

        Raises:
            ValueError: The writer is closed.
        """
        file = self._ensure_open()
        if not isinstance(file, LogFile):
            return file.fileno()
        # Not the descriptor that has the lock: a child that inherited it would keep the lock.
        with self._opening:
            if self._descriptor < 0:
                self._descriptor = file.open_again()
            elif not is_at_path(self._options.target, self._descriptor):
                reopen_log(self._options.target, self._descriptor)
            return self._descriptor

    @override
    def isatty(self) -> bool:
        try:
            return self._options.target in CONSOLES and os.isatty(self.fileno())
        except io.UnsupportedOperation:  # the console is no file
            return False

    @override
    def write(self, text: str, /) -> int:
        """Write *text*: whole, in one piece, if it ends its line, else as soon as that ends.

        Args:
            text: The text; a newline at its end ends the record.

        Returns:
            The number of characters.

        Raises:
            TypeError: *text* is no ``str``.
            ValueError: The writer is closed.
            OSError: The file cannot be written; nothing of the record is left in it.  With *fsync*
                the record may be in the file and not on the disk.
            UnicodeEncodeError: *text* cannot be encoded; nothing is written.
        """
        try:
            data = self._encode(text)
        except TypeError:
            raise TypeError(f"write() argument must be str, not {type(text).__name__}") from None
        if text and text[-1] == "\n" and not self._unfinished:
            self._append(data)
        else:
            self._write_piece(text, data)
        return len(text)

    def _write_piece(self, text: str, data: bytes) -> None:
        """Keep text that does not end its line, or write the record that it ends."""
        self._ensure_open()
        thread = threading.current_thread()
        if text.endswith("\n"):
            self._append(b"".join([*self._unfinished.pop(thread, ()), data]))
        elif text:
            _write_at_exit()
            self._unfinished.setdefault(thread, []).append(data)

    @override
    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override] # typeshed: bytes too
        """Write all of *lines*, whole, in one piece.

        Args:
            lines: Texts with their newlines, as for any file.

        Raises:
            OSError: As ``write``.
        """
        self.write("".join(lines))

    def _write_record(self, text: str) -> None:
        self._append(self._encode(text))

    def _rotate(self) -> None:
        file = self._ensure_open()
        if isinstance(file, LogFile):
            file.rotate()

    def timed(self, label: str, *, stamp: bool = False) -> Timer:
        """Return a context manager that writes how long its block took: ``LABEL cost: SECONDS``.

        If the block raises, the line is ``LABEL failed after SECONDS: ERROR``, and the exception
        goes on.  A newline in *label* or in the error is written as a space.

        Args:
            label: What the line begins with.
            stamp: Whether the line says before that when the block ended and in which process, as
                ``2026-11-28T18:30:05.123+00:00 4711``.

        Returns:
            The context manager; its ``seconds`` are how long the block took.
        """
        return Timer(self._write_record, label, stamp)

    @override
    def close(self) -> None:
        """Write the unfinished records, each with a newline, and close the file.

        Raises:
            OSError: They cannot be written; the file is closed all the same.
        """
        if self.closed:
            return
        if not hasattr(self, "_append"):  # called by __del__, after an argument was wrong
            super().close()
            return
        try:
            self._write_unfinished()
        finally:
            super().close()
            file = self._file
            self._reset()
            if file is not None:
                file.close()
            if self._descriptor >= 0:
                os.close(self._descriptor)

    def _write_unfinished(self) -> None:
        unfinished, self._unfinished = self._unfinished, {}
        if unfinished:
            end = self._options.of_file().newline
            self._append(b"".join(b"".join([*pieces, end]) for pieces in unfinished.values()))

    def _open_and_append(self, data: bytes) -> None:
        self._ensure_open()
        self._append(data)

    def _ensure_open(self) -> Sink:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._file is None:
            with self._opening:
                file = self._open()
                if self._file is None:  # still: a signal handler may have opened it in the meantime
                    self._append = file.append
                    self._file = file
                else:
                    file.close()
        return self._file

    def _open(self) -> Sink:
        if self._options.target not in CONSOLES:
            return LogFile(self._options.target, self._options.of_file(), self._options.lock)
        stream = self._stream or stream_of(self._options.target, LockedLogWriter)
        return Console(stream, self._options.lock, self._options.encoding)

    def _after_fork(self) -> None:
        file = self._file
        # A thread of the parent may hold the RLocks, and unfinished text is the parent's to write.
        self._reset()
        if file is not None:
            file.close_after_fork()  # the parent has the same file open, so it keeps its lock: flock(2)

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._options.target!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed:
            raise ValueError(f"{self!r} cannot be sent to another process")
        # The first write opens the file: an error while unpickling would end a worker of a standard pool.
        return type(self)._unopened, (self._options,)

    @classmethod
    def _unopened(cls, options: LogOptions) -> Self:
        """Return a writer that opens its file at the first write."""
        writer = cls.__new__(cls)
        writer._configure(options)
        return writer


_writers: weakref.WeakSet[LockedLogWriter] = weakref.WeakSet()
_writing_at_exit: set[int] = set()  # the pid of this process, if it has text that is unfinished


def _write_at_exit() -> None:
    """Have what is unfinished written when this process ends: a ``multiprocessing.Process`` drops it else."""
    if os.getpid() not in _writing_at_exit:
        _writing_at_exit.clear()
        _writing_at_exit.add(os.getpid())
        Finalize(None, _write_all_unfinished, exitpriority=0)


def _write_all_unfinished() -> None:
    for writer in list(_writers):
        writer._write_unfinished()


def _after_fork() -> None:
    for writer in list(_writers):
        writer._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
