"""The contract that stores implement, and, lazily, the result and event stores that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.exports import *  # noqa: F403
    from omniq.storage.base import BaseEventStorage as BaseEventStorage
    from omniq.storage.base import BaseResultStorage as BaseResultStorage
    from omniq.storage.base import BaseTaskQueue as BaseTaskQueue
    from omniq.storage.base import Capability as Capability
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "BaseEventStorage": "omniq.storage.base",
            "BaseResultStorage": "omniq.storage.base",
            "BaseTaskQueue": "omniq.storage.base",
            "Capability": "omniq.storage.base",
        },
        fronts=(
            "events",
            "results",
        ),
    )
