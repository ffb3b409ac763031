"""How tasks ended: the result storage that all stores share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.results.engine import AsyncResultStorage as AsyncResultStorage
    from omniq.results.facade import ResultStorage as ResultStorage
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncResultStorage": "omniq.results.engine",
            "ResultStorage": "omniq.results.facade",
        },
    )

__all__ = [
    "AsyncResultStorage",
    "ResultStorage",
]
