"""Backends: the task queue, results and events of one store under one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.component import BaseBackend as BaseBackend
    from omniq.exports import *  # noqa: F403
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "BaseBackend": "omniq.component",
        },
        fronts=("backend",),
    )
