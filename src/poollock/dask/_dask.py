"""What Dask and cloudpickle leave without types; the rest of this package calls it as if it had some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
import distributed

_cloudpickle: Any = cloudpickle
_distributed: Any = distributed

Client: Any = _distributed.Client
connect: Any = _distributed.comm.connect
get_client: Any = _distributed.get_client
get_worker: Any = _distributed.get_worker
rpc: Any = _distributed.core.rpc

dump: Callable[[Any], bytes] = _cloudpickle.dumps  # also what no module has under its name
