"""The workers that omniq-core itself brings, declared like any other plugin's."""

from __future__ import annotations

from omniq.plugins.hookspecs import hookimpl
from omniq.plugins.specs import WorkerSpec


@hookimpl
def omniq_workers() -> list[WorkerSpec]:
    return [
        WorkerSpec("async", "omniq.workers.async_:AsyncWorker"),
        WorkerSpec("thread", "omniq.workers.thread:ThreadPoolWorker", aliases=("thread_pool",)),
        WorkerSpec("process", "omniq.workers.process:ProcessPoolWorker", aliases=("process_pool",)),
    ]
