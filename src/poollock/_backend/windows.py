"""What only Windows has: locks of files, mutexes with names, open files that others may rename."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    raise ImportError("for Windows alone")

import _winapi
import ctypes
import errno
import msvcrt
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import count

_APPEND_DATA, _READ_DATA, _WRITE_DATA = 4, 1, 2  # access rights of a file
_DELETE = 0x10000
_ATTRIBUTES_AND_WAIT = 0x100080  # FILE_READ_ATTRIBUTES, SYNCHRONIZE
_SHARE_ALL = 7  # FILE_SHARE_READ, _WRITE and _DELETE: who may rename a file may delete it
_CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
_FILE_TYPE_DISK = 1
_NORMAL = 0x80  # FILE_ATTRIBUTE_NORMAL

_FAIL_IMMEDIATELY, _EXCLUSIVE = 1, 2  # flags of LockFileEx
_LOCK_VIOLATION, _NOT_LOCKED = 33, 158  # errors; Wine has the first for both

_SYNCHRONIZE = 0x100000
_WAIT_ABANDONED = 0x80
_SLICE = 100  # milliseconds; no signal handler of Python runs during a wait
_SPARE_NAMES = 100

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_ntdll = ctypes.WinDLL("ntdll")


class _Overlapped(ctypes.Structure):
    """Where in a file: the structure OVERLAPPED."""

    _fields_ = (
        ("internal", ctypes.c_size_t),
        ("internal_high", ctypes.c_size_t),
        ("offset", ctypes.c_uint32),
        ("offset_high", ctypes.c_uint32),
        ("event", ctypes.c_void_p),
    )


_HANDLE, _DWORD = ctypes.c_void_p, ctypes.c_uint32
_lock_file = _kernel32.LockFileEx
_lock_file.argtypes = _HANDLE, _DWORD, _DWORD, _DWORD, _DWORD, ctypes.c_void_p
_unlock_file = _kernel32.UnlockFileEx
_unlock_file.argtypes = _HANDLE, _DWORD, _DWORD, _DWORD, ctypes.c_void_p
_reopen_file = _kernel32.ReOpenFile
_reopen_file.argtypes = _HANDLE, _DWORD, _DWORD, _DWORD
_reopen_file.restype = ctypes.c_ssize_t
_create_mutex = _kernel32.CreateMutexW
_create_mutex.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_wchar_p
_create_mutex.restype = ctypes.c_ssize_t
_release_mutex = _kernel32.ReleaseMutex
_release_mutex.argtypes = (_HANDLE,)
_query_semaphore = _ntdll.NtQuerySemaphore
_query_semaphore.argtypes = _HANDLE, ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p

# A byte that no log reaches, since nobody else can read or write what is locked.
_FAR = ctypes.byref(_Overlapped(offset_high=1 << 30))


def lock_file(fd: int, *, wait: bool) -> None:
    """Lock the file that *fd* has open; the system frees it when this process ends.

    Raises:
        BlockingIOError: It is locked, and *wait* is false.
        OSError: What *fd* has open has no locks.
    """
    flags = _EXCLUSIVE if wait else _EXCLUSIVE | _FAIL_IMMEDIATELY
    if not _lock_file(msvcrt.get_osfhandle(fd), flags, 0, 1, 0, _FAR):
        code = ctypes.get_last_error()
        if code == _LOCK_VIOLATION:
            raise BlockingIOError(errno.EAGAIN, "the file is locked")
        raise ctypes.WinError(code)


def unlock_file(fd: int) -> None:
    """Free the lock of ``lock_file``; nothing happens if there is none."""
    if not _unlock_file(msvcrt.get_osfhandle(fd), 0, 1, 0, _FAR):
        code = ctypes.get_last_error()
        if code not in {_NOT_LOCKED, _LOCK_VIOLATION}:
            raise ctypes.WinError(code)


def open_to_append(path: str, *, create: bool) -> int:
    """Open a file; each write, by whoever gets the handle, is at its end.  Others may rename the file.

    A descriptor of ``os.open`` is no such thing: the C runtime moves to the end and then writes, in
    two steps, and in a child process that inherits the handle, it writes where the handle stands.

    Raises:
        OSError: It cannot be opened.
    """
    rights = _READ_DATA | _APPEND_DATA | _ATTRIBUTES_AND_WAIT
    disposition = _OPEN_ALWAYS if create else _OPEN_EXISTING
    try:
        handle = _open(path, rights, disposition)
    except PermissionError:  # this user may be allowed to write and not to read; no lock without either
        handle = _open(path, _WRITE_DATA | _APPEND_DATA | _ATTRIBUTES_AND_WAIT, disposition)
        return msvcrt.open_osfhandle(handle, os.O_APPEND | os.O_NOINHERIT)
    return msvcrt.open_osfhandle(handle, os.O_NOINHERIT)


def create_shared(path: str) -> None:
    """Create an empty file, which others may rename already.

    Raises:
        FileExistsError: There is one.
    """
    _winapi.CloseHandle(_open(path, _ATTRIBUTES_AND_WAIT, _CREATE_NEW))


def _open(path: str, rights: int, disposition: int) -> int:
    try:
        return _winapi.CreateFile(path, rights, _SHARE_ALL, 0, disposition, _NORMAL, 0)
    except OSError as error:
        error.filename = path
        raise


def has_file_locks(fd: int) -> bool:
    """Return whether *fd* has a file of a disk open, rather than a console or a pipe."""
    return _winapi.GetFileType(msvcrt.get_osfhandle(fd)) == _FILE_TYPE_DISK


def truncate_file(fd: int, size: int) -> None:
    """Shorten a file that ``open_to_append`` has opened, which does not include the right to do so."""
    handle = _reopen_file(msvcrt.get_osfhandle(fd), _WRITE_DATA | _ATTRIBUTES_AND_WAIT, _SHARE_ALL, 0)
    if handle == -1:
        raise ctypes.WinError(ctypes.get_last_error())
    other = msvcrt.open_osfhandle(handle, os.O_NOINHERIT)
    try:
        os.ftruncate(other, size)
    finally:
        os.close(other)


def replace_open(source: str, target: str) -> None:
    """Rename *source*, and remove what was at *target*, even if other processes have that open.

    Windows does not do it in one step.  A process that is killed between two of them leaves no *target*,
    and perhaps a file ``TARGET.removed-0``, which the next call removes.

    Raises:
        OSError: A program has one of them open that does not let it be renamed.
    """
    with suppress(OSError):
        os.unlink(_spare_name(target, 0))
    try:
        os.replace(source, target)
    except PermissionError:
        if not os.path.lexists(target):
            raise
        _winapi.CloseHandle(
            _open(source, _DELETE, _OPEN_EXISTING)
        )  # if it must not be renamed, keep the target
        remove_open(target)
        os.rename(source, target)


def _spare_name(path: str, number: int) -> str:
    return f"{path}.removed-{number}"


@contextmanager
def rename_away(path: str) -> Generator[str, None, None]:
    """Have somebody rename or remove the file at *path*, which is open; yield the name that it has meanwhile.

    If it were removed under its own name it might keep that until the last process has closed it: what
    these write until then would be lost.

    Raises:
        OSError: A program has it open that does not let it be renamed.
    """
    for number in count():
        spare = f"{path}.rotating-{number}"
        with suppress(FileExistsError):  # a process was killed in here
            os.rename(path, spare)
            break
    try:
        yield spare
    finally:
        with suppress(OSError):  # it has been renamed or removed, as it should be
            os.rename(spare, path)


def remove_open(path: str) -> None:
    """Remove a file, even if other processes have it open, and have its name free at once.

    Older versions of Windows keep the name of an open file until the last one has closed it.

    Raises:
        FileNotFoundError: There is none.
        OSError: A program has it open that does not let it be renamed.
    """
    for number in range(_SPARE_NAMES):
        spare = _spare_name(path, number)
        with suppress(OSError):
            os.unlink(spare)
        try:
            os.rename(path, spare)
        except FileNotFoundError:
            raise
        except OSError:  # that name is not free yet; or the file cannot be renamed
            if number == _SPARE_NAMES - 1:
                raise
        else:
            with suppress(OSError):
                os.unlink(spare)
            return


class NamedMutex:
    """A mutex that processes find by its name.

    A thread that has it may take it again.  The system frees it when the thread or its process ends.

    Args:
        name: The name.

    Raises:
        OSError: Another user has it.
    """

    def __init__(self, name: str) -> None:
        self._handle = _create_mutex(None, 0, name)
        if not self._handle:
            raise ctypes.WinError(ctypes.get_last_error())

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the mutex, waiting *timeout* seconds for it at most; return whether it could be had."""
        left = None if timeout is None else int(timeout * 1000)
        while True:
            wait = _SLICE if left is None else min(_SLICE, left)
            if _winapi.WaitForSingleObject(self._handle, wait) in {_winapi.WAIT_OBJECT_0, _WAIT_ABANDONED}:
                return True
            if left is not None:
                left -= wait
                if left <= 0:
                    return False

    def release(self) -> None:
        """Give the mutex back; nothing happens if this thread does not have it."""
        _release_mutex(self._handle)

    def close(self) -> None:
        """Close the handle."""
        _winapi.CloseHandle(self._handle)


@contextmanager
def named_mutex(name: str, timeout: float) -> Generator[bool, None, None]:
    """Hold the mutex called *name*; yield whether it could be had within *timeout* seconds.

    If another user has it, that counts as had.
    """
    try:
        mutex = NamedMutex(name)
    except OSError:
        yield True
        return
    acquired = True  # even if a signal handler raises just when the wait is over
    try:
        acquired = mutex.acquire(timeout)
        yield acquired
    finally:
        if acquired:
            mutex.release()
        mutex.close()


def semaphore_value(handle: int) -> int:
    """Return how often the semaphore can be taken now.

    ``sem_getvalue`` of multiprocessing takes it for a moment, so that somebody else's attempt fails.
    """
    info = (ctypes.c_long * 2)()  # the count, and the greatest count
    status = _query_semaphore(handle, 0, info, ctypes.sizeof(info), None)
    if status:
        raise OSError(errno.EINVAL, f"NtQuerySemaphore has returned {status & 0xFFFFFFFF:#x}")
    return info[0]


def process_is_gone(pid: int) -> bool:
    """Return whether there is no process *pid*, or it has ended."""
    try:
        handle = _winapi.OpenProcess(_SYNCHRONIZE, False, pid)  # noqa: FBT003 - it takes no keyword
    except PermissionError:
        return False
    except OSError:
        return True
    try:
        return _winapi.WaitForSingleObject(handle, 0) == _winapi.WAIT_OBJECT_0
    finally:
        _winapi.CloseHandle(handle)


def ignore_ctrl_c(*, ignore: bool) -> None:
    """Have this process, and those that it starts from now on, ignore Ctrl-C; or no longer."""
    _kernel32.SetConsoleCtrlHandler(None, int(ignore))
