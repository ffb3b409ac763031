"""What this distribution brings. Imports neither gevent nor anything else of it."""

from __future__ import annotations

from omniq.plugins import WorkerSpec, hookimpl


@hookimpl
def omniq_workers() -> list[WorkerSpec]:
    return [WorkerSpec("gevent", "omniq_gevent.worker:GeventPoolWorker", aliases=("gevent_pool",))]
