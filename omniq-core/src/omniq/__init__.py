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
    from omniq.declaring import AsyncTaskDecorator as AsyncTaskDecorator
    from omniq.declaring import AsyncTaskFunction as AsyncTaskFunction
    from omniq.declaring import Slots as Slots
    from omniq.declaring import TaskDecorator as TaskDecorator
    from omniq.declaring import TaskFunction as TaskFunction
    from omniq.errors import Reject as Reject
    from omniq.errors import Retry as Retry
    from omniq.events import EventStorage as EventStore
    from omniq.migration import AsyncMigration as AsyncMigration
    from omniq.migration import Migration as Migration
    from omniq.models.task import TaskId as TaskId
    from omniq.plugins.hookspecs import VERSION as __version__  # noqa: N811
    from omniq.queue.engine import TaskQueue as TaskQueue
    from omniq.queue.moving import MigrationReport as MigrationReport
    from omniq.queue.moving import Unmoved as Unmoved
    from omniq.queue.workflows import call as call
    from omniq.queue.workflows import chain as chain
    from omniq.queue.workflows import group as group
    from omniq.queue.workflows import result_of as result_of
    from omniq.results import ResultStorage as ResultStore
    from omniq.workers.jobs import current_task as current_task
else:
    _, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncMigration": "omniq.migration",
            "AsyncOmniQ": "omniq.core",
            "AsyncTaskDecorator": "omniq.declaring",
            "AsyncTaskFunction": "omniq.declaring",
            "CallbackManager": "omniq.callbacks",
            "EventStore": "omniq.events:EventStorage",
            "Migration": "omniq.migration",
            "MigrationReport": "omniq.queue.moving",
            "Unmoved": "omniq.queue.moving",
            "OmniQ": "omniq.core",
            "Reject": "omniq.errors",
            "ResultStore": "omniq.results:ResultStorage",
            "Retry": "omniq.errors",
            "Slots": "omniq.declaring",
            "TaskDecorator": "omniq.declaring",
            "TaskFunction": "omniq.declaring",
            "TaskId": "omniq.models.task",
            "TaskQueue": "omniq.queue.engine",
            "TaskUpdate": "omniq.callbacks",
            "__version__": "omniq.plugins.hookspecs:VERSION",
            "call": "omniq.queue.workflows",
            "chain": "omniq.queue.workflows",
            "current_task": "omniq.workers.jobs",
            "group": "omniq.queue.workflows",
            "result_of": "omniq.queue.workflows",
        },
    )

__all__ = [
    "AsyncMigration",
    "AsyncOmniQ",
    "AsyncTaskDecorator",
    "AsyncTaskFunction",
    "CallbackManager",
    "EventStore",
    "Migration",
    "MigrationReport",
    "OmniQ",
    "Reject",
    "ResultStore",
    "Retry",
    "Slots",
    "TaskDecorator",
    "TaskFunction",
    "TaskId",
    "TaskQueue",
    "TaskUpdate",
    "Unmoved",
    "__version__",
    "call",
    "chain",
    "current_task",
    "group",
    "result_of",
]
