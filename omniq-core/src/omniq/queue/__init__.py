"""Task queues: the engine that all stores share, and, lazily, the queues that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.exports import *  # noqa: F403
    from omniq.queue.engine import AsyncTaskQueue as AsyncTaskQueue
    from omniq.queue.engine import Scheduler as Scheduler
    from omniq.queue.engine import TaskQueue as TaskQueue
    from omniq.queue.explain import Explanation as Explanation
    from omniq.queue.many import TaskConditions as TaskConditions
    from omniq.queue.policies import DependencyResolver as DependencyResolver
    from omniq.queue.policies import RetryManager as RetryManager
    from omniq.queue.scheduler import AsyncScheduler as AsyncScheduler
    from omniq.queue.ttl import TTLManager as TTLManager
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncScheduler": "omniq.queue.scheduler",
            "AsyncTaskQueue": "omniq.queue.engine",
            "DependencyResolver": "omniq.queue.policies",
            "Explanation": "omniq.queue.explain",
            "RetryManager": "omniq.queue.policies",
            "Scheduler": "omniq.queue.engine",
            "TTLManager": "omniq.queue.ttl",
            "TaskConditions": "omniq.queue.many",
            "TaskQueue": "omniq.queue.engine",
        },
        fronts=("queue",),
    )
