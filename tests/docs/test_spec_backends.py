"""The specification's "Backend-Based Usage" runs as written.

What isn't in the specification is marked with "here:".
"""
# ruff: noqa: C408, I001 (the specification writes dict(name="Tom"), and imports where it needs to)

from __future__ import annotations

from pathlib import Path

import pytest
from omniq import OmniQ
from omniq.backend import FileBackend, PostgresBackend, SQLiteBackend
from omniq.errors import ConfigError
from omniq.models import EventType, PostgresTaskQueueConfig, ResultStatus, TaskState
from omniq.workers import AsyncWorker

from tests.servers.redis import RedisServer, kinds


@pytest.fixture
def server(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PostgresTaskQueueConfig:
    """Where "localhost" is; `some/path` is in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return PostgresTaskQueueConfig.from_url(postgres_url)


def simple_task(name):  # type: ignore[no-untyped-def]
    return f"Hello {name}"


def test_backend_based_usage(server: PostgresTaskQueueConfig) -> None:
    # Create backends
    sqlite_backend = SQLiteBackend(project_name="my_project", base_dir="some/path")
    file_backend = FileBackend(project_name="my_project", base_dir="some/path")
    pg_backend = PostgresBackend(
        project_name="my_project",
        host=server.host,
        port=server.port,
        username=server.username,
        password=server.password or "secret",
        database=server.database,  # here, and the next: a place of this test's own
        schema=server.schema,
    )

    # Create OmniQ with a single backend
    oq = OmniQ.from_backend(sqlite_backend, worker_type="thread_pool", worker_config={"max_workers": 10})

    # here: tasks, results and events are all in SQLite
    with oq:
        oq.start_worker()
        task_id = oq.enqueue(simple_task, func_args=dict(name="Tom"))
        assert oq.get_result(task_id) == "Hello Tom"
        oq.stop_worker()
        assert _events(oq, task_id) == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
    assert [path.name for path in Path("some/path").glob("*.db")] == ["my_project.db"]
    assert not Path("some/path/my_project").exists()  # which is for files

    # Or mix backends for different components
    oq = OmniQ.from_backend(
        backend=file_backend,  # For task queue
        result_store_backend=sqlite_backend,  # For result storage
        event_store_backend=pg_backend,  # For event storage
        worker_type="async",
        worker_config={"max_workers": 20},
    )

    # here: each has its part
    with oq:
        oq.start_worker()
        mixed_id = oq.enqueue(simple_task, func_args=dict(name="Ann"))
        assert oq.get_result(mixed_id) == "Hello Ann"
        oq.stop_worker()
        assert _events(oq, mixed_id) == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
        assert _events(oq, task_id) == []

    # Create individual components from backends
    from omniq import TaskQueue, ResultStore, EventStore

    task_queue = TaskQueue.from_backend(file_backend, queues=["high", "medium", "low"])
    result_store = ResultStore.from_backend(sqlite_backend)
    event_store = EventStore.from_backend(pg_backend)

    # here: they find what the two above have left, and work together
    with task_queue, result_store:
        assert task_queue.queues == ("high", "medium", "low", "default")
        assert task_queue.get_task(mixed_id).state is TaskState.SUCCESS
        found = [result_store.get(id_) for id_ in (task_id, mixed_id)]
        assert [result and result.value for result in found] == ["Hello Tom", "Hello Ann"]
        with AsyncWorker(task_queue, result_store, event_store):
            low_id = task_queue.enqueue(simple_task, func_args=dict(name="Low"), queue_name="low")
            result = result_store.wait(low_id, timeout=30)
        assert result is not None
        assert (result.status, result.value) == (ResultStatus.SUCCESS, "Hello Low")
    with event_store:
        events = [event.type for event in event_store.list(task_id=low_id, oldest_first=True)]
        assert events == [EventType.EXECUTING, EventType.COMPLETE]  # the queue by itself keeps none


def _events(oq: OmniQ, task_id: str) -> list[EventType]:
    return [event.type for event in oq.list_events(task_id=task_id, oldest_first=True)]


# ── what the specification's diagrams say of the other backends ──────────────


def test_a_postgres_backend_has_all_three(server: PostgresTaskQueueConfig) -> None:
    backend = PostgresBackend(host=server.host, port=server.port, database=server.database, schema=server.schema)
    with OmniQ.from_backend(backend) as oq:
        oq.start_worker("thread", max_workers=2)
        task_id = oq.enqueue(simple_task, func_args=dict(name="Tom"))
        assert oq.get_result(task_id) == "Hello Tom"
        oq.stop_worker()
        assert _events(oq, task_id) == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
        stores = (oq.aio.task_queue.store, oq.aio.result_store.store, oq.aio.task_queue.stores.results)
        assert len({store.location for store in stores if store is not None}) == 1


@pytest.mark.parametrize("redis_server", kinds()[:1], indirect=True)
def test_a_redis_backend_has_a_queue_and_results(redis_server: RedisServer) -> None:
    from omniq import EventStore
    from omniq.backend import RedisBackend

    backend = RedisBackend(project_name="my_project", host="127.0.0.1", port=redis_server.port)
    with OmniQ.from_backend(backend) as oq:
        oq.start_worker("thread", max_workers=2)
        assert oq.get_result(oq.enqueue(simple_task, func_args=dict(name="Tom"))) == "Hello Tom"
        with pytest.raises(ConfigError, match=r"^event_store: none is configured"):
            oq.list_events()
    with pytest.raises(ConfigError, match=r"^event_store: redis keeps no events$"):
        EventStore.from_backend(backend)


def test_a_nats_backend_has_a_queue_and_results(nats_url: str) -> None:
    from omniq import EventStore, ResultStore, TaskQueue
    from omniq.backend import NATSBackend

    backend = NATSBackend.from_url(nats_url)
    with OmniQ.from_backend(backend) as oq:
        oq.start_worker("thread", max_workers=2)
        task_id = oq.enqueue(simple_task, func_args=dict(name="Tom"))
        assert oq.get_result(task_id, timeout=30) == "Hello Tom"
    with TaskQueue.from_backend(backend) as task_queue, ResultStore.from_backend(backend) as result_store:
        assert task_queue.get_task(task_id).state is TaskState.SUCCESS
        assert (found := result_store.get(task_id)) is not None
        assert found.value == "Hello Tom"
    with pytest.raises(ConfigError, match=r"^event_store: nats keeps no events$"):
        EventStore.from_backend(backend)


def test_a_memory_backend_has_all_three() -> None:
    from omniq.backend import MemoryBackend

    with OmniQ.from_backend(MemoryBackend(project_name="my_project")) as oq:
        oq.start_worker("thread", max_workers=2)
        task_id = oq.enqueue(simple_task, func_args=dict(name="Tom"))
        assert oq.get_result(task_id, timeout=30) == "Hello Tom"
        oq.stop_worker()
        assert _events(oq, task_id) == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
