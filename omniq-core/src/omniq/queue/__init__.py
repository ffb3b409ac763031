"""Task queues: the engine that all stores share, and, lazily, the queues that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.exports import *  # noqa: F403
    from omniq.queue.adding import Report as Report
    from omniq.queue.adding import Resigner as Resigner
    from omniq.queue.adding import Tally as Tally
    from omniq.queue.engine import AsyncTaskQueue as AsyncTaskQueue
    from omniq.queue.engine import Scheduler as Scheduler
    from omniq.queue.engine import TaskQueue as TaskQueue
    from omniq.queue.explain import Explanation as Explanation
    from omniq.queue.explain import HistoryEntry as HistoryEntry
    from omniq.queue.graph import TaskDependencyGraph as TaskDependencyGraph
    from omniq.queue.graph import TaskNode as TaskNode
    from omniq.queue.many import TaskConditions as TaskConditions
    from omniq.queue.options import AnyCall as AnyCall
    from omniq.queue.options import CommonOptions as CommonOptions
    from omniq.queue.options import EnqueueOptions as EnqueueOptions
    from omniq.queue.options import ScheduleOptions as ScheduleOptions
    from omniq.queue.options import TaskCall as TaskCall
    from omniq.queue.options import TaskOptions as TaskOptions
    from omniq.queue.policies import DependencyResolver as DependencyResolver
    from omniq.queue.policies import RetryManager as RetryManager
    from omniq.queue.policies import TTLManager as TTLManager
    from omniq.queue.scheduler import AsyncScheduler as AsyncScheduler
    from omniq.queue.workflows import AsyncWorkflow as AsyncWorkflow
    from omniq.queue.workflows import Chain as Chain
    from omniq.queue.workflows import Group as Group
    from omniq.queue.workflows import Workflow as Workflow
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AnyCall": "omniq.queue.options",
            "AsyncScheduler": "omniq.queue.scheduler",
            "AsyncTaskQueue": "omniq.queue.engine",
            "AsyncWorkflow": "omniq.queue.workflows",
            "Chain": "omniq.queue.workflows",
            "CommonOptions": "omniq.queue.options",
            "DependencyResolver": "omniq.queue.policies",
            "EnqueueOptions": "omniq.queue.options",
            "Explanation": "omniq.queue.explain",
            "Group": "omniq.queue.workflows",
            "Report": "omniq.queue.adding",
            "Resigner": "omniq.queue.adding",
            "RetryManager": "omniq.queue.policies",
            "ScheduleOptions": "omniq.queue.options",
            "Scheduler": "omniq.queue.engine",
            "HistoryEntry": "omniq.queue.explain",
            "TTLManager": "omniq.queue.policies",
            "Tally": "omniq.queue.adding",
            "TaskCall": "omniq.queue.options",
            "TaskConditions": "omniq.queue.many",
            "TaskDependencyGraph": "omniq.queue.graph",
            "TaskNode": "omniq.queue.graph",
            "TaskOptions": "omniq.queue.options",
            "TaskQueue": "omniq.queue.engine",
            "Workflow": "omniq.queue.workflows",
        },
        fronts=("queue",),
    )
