"""What Dask and cloudpickle leave without types; the rest of this package calls it as if it had some."""

from __future__ import annotations

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


class CloudPickler:
    """Pickles what goes to another machine, and that also if no module has it under its name."""

    def dump(self, obj: Any, /) -> bytes:
        """Return *obj* as bytes.

        Raises:
            Exception: What pickling raised.
        """
        payload: bytes = _cloudpickle.dumps(obj)
        return payload


PICKLER = CloudPickler()
