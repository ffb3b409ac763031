"""The specification's "Working with Multiple Queues" runs as written.

What isn't in the specification is marked with "here:".
"""
# ruff: noqa: C408 (the specification writes dict(name="High Priority"))

from __future__ import annotations

from collections.abc import Iterator

import pytest
from omniq.models import PostgresTaskQueueConfig
from omniq.queue import PostgresTaskQueue
from omniq.workers import ThreadPoolWorker


@pytest.fixture
def server(postgres_url: str) -> Iterator[PostgresTaskQueueConfig]:
    """Where "localhost" is."""
    began.clear()
    yield PostgresTaskQueueConfig.from_url(postgres_url)
    began.clear()


began: list[str] = []
"""The names of the tasks in the order in which they were run."""


def simple_task(name):  # type: ignore[no-untyped-def]
    began.append(name)
    return f"Hello {name}"


def test_working_with_multiple_queues(server: PostgresTaskQueueConfig) -> None:
    # Create PostgreSQL queue with multiple named queues
    queue = PostgresTaskQueue(
        project_name="my_project",
        host=server.host,
        port=server.port,
        username=server.username,
        password=server.password or "secret",
        queues=["high", "medium", "low"],
        database=server.database,  # here, and the next: a place of this test's own
        schema=server.schema,
    )

    # Create worker that processes queues in priority order
    worker = ThreadPoolWorker(queue=queue, max_workers=10)
    worker.start()

    # Enqueue tasks to different queues
    high_task_id = queue.enqueue(simple_task, func_args=dict(name="High Priority"), queue_name="high")
    medium_task_id = queue.enqueue(simple_task, func_args=dict(name="Medium Priority"), queue_name="medium")
    low_task_id = queue.enqueue(simple_task, func_args=dict(name="Low Priority"), queue_name="low")

    # here
    ids = (low_task_id, medium_task_id, high_task_id)
    assert [worker.get_result(id_, timeout=30) for id_ in ids] == [
        "Hello Low Priority",
        "Hello Medium Priority",
        "Hello High Priority",
    ]
    worker.stop()
    queue.close()


def test_high_comes_first_then_medium_then_low(server: PostgresTaskQueueConfig) -> None:
    with PostgresTaskQueue(
        host=server.host,
        port=server.port,
        username=server.username,
        password=server.password,
        database=server.database,
        schema=server.schema,
        queues=["high", "medium", "low"],
    ) as queue:
        names = [name for name in ("low", "medium", "high", "default") for _ in range(3)]
        ids = [queue.enqueue(simple_task, func_args=dict(name=name), queue_name=name) for name in names]

        # Worker will process "high" queue tasks first, then "medium", then "low"
        with ThreadPoolWorker(queue=queue, max_workers=1) as worker:
            for id_ in ids:
                worker.get_result(id_, timeout=30)

    assert began == [name for name in ("high", "medium", "low", "default") for _ in range(3)]
