"""Workers: they claim tasks and run them in a loop, on threads, in processes or on greenlets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.exports import *  # noqa: F403
    from omniq.workers.async_ import AsyncWorker as AsyncWorker
    from omniq.workers.base import Worker as Worker
    from omniq.workers.base import WorkerPool as WorkerPool
    from omniq.workers.execution import Execution as Execution
    from omniq.workers.execution import Runner as Runner
    from omniq.workers.jobs import Job as Job
    from omniq.workers.jobs import Line as Line
    from omniq.workers.jobs import RunResult as RunResult
    from omniq.workers.jobs import RunStatus as RunStatus
    from omniq.workers.jobs import TaskContext as TaskContext
    from omniq.workers.jobs import current_task as current_task
    from omniq.workers.pool import AsyncWorkerPool as AsyncWorkerPool
    from omniq.workers.process import ProcessPoolWorker as ProcessPoolWorker
    from omniq.workers.settling import FailedRun as FailedRun
    from omniq.workers.stacks import Place as Place
    from omniq.workers.thread import ThreadPoolWorker as ThreadPoolWorker
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncWorker": "omniq.workers.async_",
            "AsyncWorkerPool": "omniq.workers.pool",
            "Execution": "omniq.workers.execution",
            "FailedRun": "omniq.workers.settling",
            "Job": "omniq.workers.jobs",
            "Line": "omniq.workers.jobs",
            "Place": "omniq.workers.stacks",
            "ProcessPoolWorker": "omniq.workers.process",
            "RunResult": "omniq.workers.jobs",
            "RunStatus": "omniq.workers.jobs",
            "Runner": "omniq.workers.execution",
            "TaskContext": "omniq.workers.jobs",
            "ThreadPoolWorker": "omniq.workers.thread",
            "Worker": "omniq.workers.base",
            "WorkerPool": "omniq.workers.base",
            "current_task": "omniq.workers.jobs",
        },
        fronts=("worker",),
    )
