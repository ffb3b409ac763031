"""The specification's "Configuration-Based Usage" runs as written.

What isn't in the specification is marked with "here:".
"""
# ruff: noqa: C408, I001 (the specification writes dict(name="Tom"), and imports where it needs to)

from __future__ import annotations

from pathlib import Path

import pytest
from omniq import OmniQ
from omniq.models import EventType, PostgresTaskQueueConfig
from omniq.models import FileTaskQueueConfig, SQLiteResultStorageConfig
from omniq.workers import ThreadPoolWorker

# Create components using specific config classes
from omniq.queue import FileTaskQueue
from omniq.storage import SQLiteResultStorage


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`some/path` is in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)


def simple_task(name):  # type: ignore[no-untyped-def]
    return f"Hello {name}"


def test_components_from_config_structs() -> None:
    queue = FileTaskQueue.from_config(
        FileTaskQueueConfig(
            project_name="my_project",
            base_dir="some/path",
            queues=["high", "medium", "low"],
        )
    )

    result_store = SQLiteResultStorage.from_config(
        SQLiteResultStorageConfig(
            project_name="my_project",
            base_dir="some/path",
        )
    )

    # here: they are what their configurations say, and work together
    assert queue.queues == ("high", "medium", "low", "default")
    with queue, result_store, ThreadPoolWorker(queue=queue, result_store=result_store, max_workers=2) as worker:
        task_id = queue.enqueue(simple_task, func_args=dict(name="Tom"), queue_name="low")
        assert worker.get_result(task_id, timeout=30) == "Hello Tom"
        result = result_store.get(task_id)
    assert result is not None
    assert result.value == "Hello Tom"
    assert Path("some/path/my_project.db").exists()  # the results
    assert list(Path("some/path/my_project/queues/low").iterdir())  # and the tasks


CONFIG = """
project_name: my_project
task_queue:
  type: file
  config:
    base_dir: some/path
    queues:
      - high
      - medium
      - low

result_store:
  type: sqlite
  config:
    base_dir: some/path

event_store:
  type: postgres
  config:
    host: {server.host}
    port: {server.port}
    username: {server.username}
    password: {password}
    database: {database}  # here, and the next: a place of this test's own
    schema: {server.schema}

worker:
  type: thread_pool
  config:
    max_workers: 10
"""


@pytest.fixture
def config_yaml(postgres_url: str) -> Path:
    """The specification's config.yaml."""
    server = PostgresTaskQueueConfig.from_url(postgres_url)
    password, database = server.password or "secret", server.settings.database
    path = Path("config.yaml")
    path.write_text(CONFIG.format(server=server, password=password, database=database))
    return path


def assert_it_works(oq: OmniQ) -> None:
    """It has the queues, stores and worker that the file describes."""
    assert oq.aio.task_queue.queues == ("high", "medium", "low", "default")
    pool = oq.aio.worker_pool()
    assert (pool.config.max_workers, pool.max_workers) == (10, 10)
    with oq:
        oq.start_worker()
        task_id = oq.enqueue(simple_task, func_args=dict(name="Tom"), queue_name="low")
        assert oq.get_result(task_id, timeout=30) == "Hello Tom"
        oq.stop_worker()
        events = [event.type for event in oq.list_events(task_id=task_id, oldest_first=True)]
        assert events == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
        event_store = oq.aio.event_store
        assert event_store is not None
        assert event_store.store.location.startswith("postgres:")
    assert Path("some/path/my_project.db").exists()  # the results
    assert list(Path("some/path/my_project/queues/low").iterdir())  # and the tasks


@pytest.mark.usefixtures("config_yaml")
def test_load_from_yaml_file() -> None:
    # Load from YAML file
    oq = OmniQ.from_config_file("config.yaml")

    # here
    assert_it_works(oq)
