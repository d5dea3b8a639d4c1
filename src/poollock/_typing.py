"""What only type checkers need, and Python has from 3.12 on.

``typing_extensions`` would take as long to import as half of poollock.
"""

import sys
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 12):
    from typing import override
elif TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method: Any) -> Any:
        """Return *method*, which a base class has too."""
        return method


__all__ = ["override"]
