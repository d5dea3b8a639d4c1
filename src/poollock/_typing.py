"""What Python's own ``typing`` does not have in every version yet."""

import sys

if sys.version_info >= (3, 12):
    from typing import Self, override
else:
    from typing_extensions import Self, override

__all__ = ["Self", "override"]
