"""What happened to tasks: the event storage that all stores share, and the logger that fills it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.events.facade import EventLogger as EventLogger
    from omniq.events.facade import EventStorage as EventStorage
    from omniq.events.logger import AsyncEventLogger as AsyncEventLogger
    from omniq.events.store import AsyncEventStorage as AsyncEventStorage
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncEventLogger": "omniq.events.logger",
            "AsyncEventStorage": "omniq.events.store",
            "EventLogger": "omniq.events.facade",
            "EventStorage": "omniq.events.facade",
        },
    )

__all__ = [
    "AsyncEventLogger",
    "AsyncEventStorage",
    "EventLogger",
    "EventStorage",
]
