"""The parts of multiprocessing.pool that its type stubs leave out."""

from __future__ import annotations

import multiprocessing.pool
from typing import Any

_pool: Any = multiprocessing.pool

ExceptionWithTraceback: Any = _pool.ExceptionWithTraceback
MaybeEncodingError: Any = _pool.MaybeEncodingError
RemoteTraceback: Any = _pool.RemoteTraceback
helper_reraises_exception: Any = _pool._helper_reraises_exception
mapstar: Any = _pool.mapstar
starmapstar: Any = _pool.starmapstar
