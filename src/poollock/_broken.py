"""The error of a pool that cannot go on; not imported before it is wanted, for what it imports."""

from concurrent.futures import BrokenExecutor

from ._errors import PoolLockError


class BrokenPoolError(PoolLockError, BrokenExecutor):
    """A pool cannot run a task: its workers end before they are ready, or it was ended itself."""

    __module__ = "poollock"
