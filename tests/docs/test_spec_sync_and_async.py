"""The specification's "Handling Both Sync and Async Tasks" runs as written."""
# ruff: noqa: C408 (the specification writes dict(x=5, y=10))

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from omniq.queue import FileTaskQueue
from omniq.workers import AsyncWorker


# Define sync and async tasks
def sync_task(x, y):  # type: ignore[no-untyped-def]
    return x * y


async def async_task(x, y):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0.1)  # Simulate I/O
    return x + y


def test_handling_both_sync_and_async_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    # Create components
    queue = FileTaskQueue(project_name="my_project", base_dir="some/path")
    worker = AsyncWorker(queue=queue, max_workers=10)

    # Start worker
    worker.start()

    # Enqueue both types of tasks
    sync_task_id = queue.enqueue(sync_task, func_args=dict(x=5, y=10))
    async_task_id = queue.enqueue(async_task, func_args=dict(x=5, y=10))

    # Get results
    sync_result = worker.get_result(sync_task_id)  # 50
    async_result = worker.get_result(async_task_id)  # 15

    assert (sync_result, async_result) == (50, 15)

    # Not in the specification: leave nothing open.
    worker.stop()
    queue.close()
