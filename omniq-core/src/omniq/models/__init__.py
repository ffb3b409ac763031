"""The data models, and, lazily, the configuration structs of the installed stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.config.settings import Settings as Settings
    from omniq.exports import *  # noqa: F403
    from omniq.models.config import BreakerConfig as BreakerConfig
    from omniq.models.config import ChildProcessWorkerConfig as ChildProcessWorkerConfig
    from omniq.models.config import ComponentConfig as ComponentConfig
    from omniq.models.config import EventStorageConfig as EventStorageConfig
    from omniq.models.config import InProcessWorkerConfig as InProcessWorkerConfig
    from omniq.models.config import ResultStorageConfig as ResultStorageConfig
    from omniq.models.config import TaskQueueConfig as TaskQueueConfig
    from omniq.models.config import WorkerConfig as WorkerConfig
    from omniq.models.event import EventLevel as EventLevel
    from omniq.models.event import EventType as EventType
    from omniq.models.event import TaskEvent as TaskEvent
    from omniq.models.result import Outcome as Outcome
    from omniq.models.result import Progress as Progress
    from omniq.models.result import ResultStatus as ResultStatus
    from omniq.models.result import StoredValue as StoredValue
    from omniq.models.result import TaskResult as TaskResult
    from omniq.models.schedule import FiringPolicy as FiringPolicy
    from omniq.models.schedule import Schedule as Schedule
    from omniq.models.schedule import Timing as Timing
    from omniq.models.task import Call as Call
    from omniq.models.task import DeadLetter as DeadLetter
    from omniq.models.task import Page as Page
    from omniq.models.task import RetryRule as RetryRule
    from omniq.models.task import Task as Task
    from omniq.models.task import TaskId as TaskId
    from omniq.models.task import TaskState as TaskState
    from omniq.status import ScheduleCounts as ScheduleCounts
    from omniq.status import Status as Status
    from omniq.status import StoreStatus as StoreStatus
    from omniq.storage.base import Guarantees as Guarantees
    from omniq.storage.records import BreakerState as BreakerState
    from omniq.storage.records import BreakerStatus as BreakerStatus
    from omniq.storage.records import QueueStats as QueueStats
    from omniq.storage.records import WorkerRecord as WorkerRecord
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "BreakerConfig": "omniq.models.config",
            "BreakerState": "omniq.storage.records",
            "BreakerStatus": "omniq.storage.records",
            "Call": "omniq.models.task",
            "ChildProcessWorkerConfig": "omniq.models.config",
            "ComponentConfig": "omniq.models.config",
            "DeadLetter": "omniq.models.task",
            "EventLevel": "omniq.models.event",
            "EventStorageConfig": "omniq.models.config",
            "EventType": "omniq.models.event",
            "FiringPolicy": "omniq.models.schedule",
            "Guarantees": "omniq.storage.base",
            "InProcessWorkerConfig": "omniq.models.config",
            "Outcome": "omniq.models.result",
            "Page": "omniq.models.task",
            "Progress": "omniq.models.result",
            "QueueStats": "omniq.storage.records",
            "ResultStatus": "omniq.models.result",
            "ResultStorageConfig": "omniq.models.config",
            "RetryRule": "omniq.models.task",
            "Schedule": "omniq.models.schedule",
            "ScheduleCounts": "omniq.status",
            "Settings": "omniq.config.settings",
            "Status": "omniq.status",
            "StoreStatus": "omniq.status",
            "StoredValue": "omniq.models.result",
            "Task": "omniq.models.task",
            "TaskEvent": "omniq.models.event",
            "TaskId": "omniq.models.task",
            "TaskQueueConfig": "omniq.models.config",
            "TaskResult": "omniq.models.result",
            "TaskState": "omniq.models.task",
            "Timing": "omniq.models.schedule",
            "WorkerConfig": "omniq.models.config",
            "WorkerRecord": "omniq.storage.records",
        },
        fronts=("config",),
    )
