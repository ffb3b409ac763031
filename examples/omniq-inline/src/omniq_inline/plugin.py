"""What this distribution brings. Imports nothing of it."""

from __future__ import annotations

from omniq.plugins import WorkerSpec, hookimpl


@hookimpl
def omniq_workers() -> list[WorkerSpec]:
    return [WorkerSpec("inline", "omniq_inline.worker:InlineWorker")]
