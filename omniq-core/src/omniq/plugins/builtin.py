"""What omniq-core itself brings, declared like any other plugin."""

from __future__ import annotations

from omniq.plugins.hookspecs import hookimpl
from omniq.plugins.specs import WorkerSpec

omniq_api_version = (1, 0)


@hookimpl
def omniq_workers() -> list[WorkerSpec]:
    return [
        WorkerSpec("async", "omniq.workers.async_:AsyncWorker"),
        WorkerSpec("thread", "omniq.workers.thread:ThreadPoolWorker", aliases=("thread_pool",)),
        WorkerSpec("process", "omniq.workers.process:ProcessPoolWorker", aliases=("process_pool",)),
    ]
