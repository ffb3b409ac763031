"""OmniQ: one task queue, one set of guarantees, any store.

    from omniq import OmniQ

    with OmniQ() as oq:
        oq.start_worker()
        task_id = oq.enqueue(print, ["Hello"])

Everything here is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.callbacks import CallbackManager as CallbackManager
    from omniq.callbacks import TaskUpdate as TaskUpdate
    from omniq.core import AsyncOmniQ as AsyncOmniQ
    from omniq.core import OmniQ as OmniQ
    from omniq.errors import Reject as Reject
    from omniq.errors import Retry as Retry
    from omniq.events import EventStorage as EventStore
    from omniq.plugins.hookspecs import VERSION as __version__  # noqa: N811
    from omniq.queue.engine import TaskQueue as TaskQueue
    from omniq.results import ResultStorage as ResultStore
    from omniq.workers.jobs import current_task as current_task
else:
    _, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncOmniQ": "omniq.core",
            "CallbackManager": "omniq.callbacks",
            "EventStore": "omniq.events:EventStorage",
            "OmniQ": "omniq.core",
            "Reject": "omniq.errors",
            "ResultStore": "omniq.results:ResultStorage",
            "Retry": "omniq.errors",
            "TaskQueue": "omniq.queue.engine",
            "TaskUpdate": "omniq.callbacks",
            "__version__": "omniq.plugins.hookspecs:VERSION",
            "current_task": "omniq.workers.jobs",
        },
    )

__all__ = [
    "AsyncOmniQ",
    "CallbackManager",
    "EventStore",
    "OmniQ",
    "Reject",
    "ResultStore",
    "Retry",
    "TaskQueue",
    "TaskUpdate",
    "__version__",
    "current_task",
]
