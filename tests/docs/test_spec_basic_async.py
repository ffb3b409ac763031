"""The specification's "Basic Usage with AsyncOmniQ" runs as written.

What isn't in the specification is marked with "here:".
"""
# ruff: noqa: C408 (the specification writes dict(name="Tom"))

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.models import EventType, PostgresEventStorageConfig
from omniq.queue import FileTaskQueue
from omniq.storage import PostgresEventStorage, SQLiteResultStorage
from omniq.testing import VirtualClock
from omniq.workers import AsyncWorker


@pytest.fixture
def server(postgres_url: str) -> PostgresEventStorageConfig:
    """Where "localhost" is."""
    return PostgresEventStorageConfig.from_url(postgres_url)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """A clock to move; `some/path` is in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return VirtualClock()


async def test_basic_usage_with_asyncomniq(
    clock: VirtualClock, server: PostgresEventStorageConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    # Create AsyncOmniQ instance with default components
    oq = AsyncOmniQ(
        project_name="my_project",
        task_queue=FileTaskQueue(base_dir="some/path", queues=["low", "medium", "high"]),
        result_store=SQLiteResultStorage(base_dir="some/path"),
        event_store=PostgresEventStorage(
            host=server.host,
            port=server.port,
            username=server.username,
            password=server.password,  # here, and the next: a place of this test's own
            database=server.database,
            schema=server.schema,
        ),
    )

    # Define an async task
    async def async_task(name):  # type: ignore[no-untyped-def]
        print(f"Hello {name}")
        return name

    # Start the worker
    await oq.start_worker()

    # Enqueue a task
    task_id = await oq.enqueue(
        func=async_task,
        func_args=dict(name="Tom"),
        queue_name="low",
        run_in=dt.timedelta(seconds=100),
        ttl=dt.timedelta(hours=1),
        result_ttl=dt.timedelta(minutes=5),
    )

    with clock:  # here: the hundred seconds pass while the next line waits
        asyncio.get_running_loop().call_soon(clock.advance, 100)

        # Get the result
        result = await oq.get_result(task_id)
        assert result == "Tom"

        # Schedule a recurring task
        schedule_id = await oq.schedule(
            func=async_task,
            func_args=dict(name="Tom"),
            interval=dt.timedelta(seconds=10),
            queue_name="low",
        )

        asyncio.get_running_loop().call_soon(clock.advance, 10)  # here: and ten more

        # Get latest result from scheduled task
        latest_result = await oq.get_result(schedule_id=schedule_id, kind="latest")
        assert latest_result == "Tom"

        # Stop the worker
        await oq.stop_worker()

    # here: both runs said hello, the first one's events are there, and nothing stays open
    assert capsys.readouterr().out == "Hello Tom\n" * 2
    events = [event.type for event in await oq.list_events(task_id=task_id, oldest_first=True)]
    assert events == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
    await oq.close()


async def test_using_async_context_manager(clock: VirtualClock) -> None:
    async def async_task(name):  # type: ignore[no-untyped-def]
        return name

    # here: entering AsyncOmniQ starts no worker; somebody else's, elsewhere, does the work
    async with (
        AsyncWorker(FileTaskQueue(project_name="my_project", base_dir="some/path")),
        # Using async context manager
        AsyncOmniQ("my_project", task_queue=FileTaskQueue(base_dir="some/path")) as oq,
    ):
        task_id = await oq.enqueue(async_task, func_args=dict(name="Tom"))
        result = await oq.get_result(task_id)

    assert result == "Tom"
