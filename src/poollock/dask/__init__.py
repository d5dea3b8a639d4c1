"""The same functions and calls on a Dask cluster, locks and all: ``pip install 'poollock[dask]'``.

Dask's scheduler, workers and nannies run the tasks; a plugin of ours in the scheduler keeps the locks.
``import poollock`` imports nothing of this.
"""

from ._errors import DaskWorkerDiedError
from ._locks import DaskLock, DaskRLock, DaskSemaphore
from ._member import Holder
from ._pool import DaskLockedPool, dask_locked_pool

__all__ = [
    "DaskLock",
    "DaskLockedPool",
    "DaskRLock",
    "DaskSemaphore",
    "DaskWorkerDiedError",
    "Holder",
    "dask_locked_pool",
]

for _public in (DaskLock, DaskRLock, DaskSemaphore, DaskWorkerDiedError, Holder):
    _public.__module__ = __name__
