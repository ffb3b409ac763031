"""What type checkers see of the public names. It is never run: mypy --strict and pyright check it.

A line with an `ignore` must be an error: both checkers complain about an `ignore` that isn't needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from typing import Any, assert_type

import omniq
from omniq import AsyncOmniQ, EventStore, OmniQ, ResultStore, Retry, TaskId, TaskQueue, call, chain, group, result_of
from omniq.backend import BaseBackend, SQLiteBackend
from omniq.config import ConfigProvider, EnvConfig, OmniQConfig
from omniq.events import EventStorage
from omniq.models import Page, Settings, SQLiteResultStorageConfig, SQLiteTaskQueueConfig, Task, TaskState
from omniq.queue import (
    AsyncSQLiteTaskQueue,
    AsyncTaskQueue,
    Chain,
    SQLiteTaskQueue,
    TaskCall,
    TaskDependencyGraph,
    Workflow,
)
from omniq.results import ResultStorage
from omniq.storage import AsyncSQLiteResultStorage, SQLiteEventStorage, SQLiteResultStorage
from omniq.workers import AsyncWorker, ProcessPoolWorker, ThreadPoolWorker


def greet(name: str) -> str:
    return f"Hello {name}"


# ── components ───────────────────────────────────────────────────────────────

queue = SQLiteTaskQueue(project_name="shop", base_dir="some/path", queues=["high", "low"], synchronous="NORMAL")
assert_type(queue, SQLiteTaskQueue)
assert_type(queue.enqueue(greet, {"name": "Tom"}, queue_name="high"), TaskId)
assert_type(queue.get_task("id"), Task)
assert_type(queue.list_tasks(state=TaskState.PENDING), Page[Task])
plain_queue: TaskQueue = queue

results = SQLiteResultStorage(project_name="shop", base_dir="some/path")
assert_type(results, SQLiteResultStorage)
plain_results: ResultStore = results

events = SQLiteEventStorage(path="events.db")
assert_type(events, SQLiteEventStorage)
plain_events: EventStore = events

assert_type(AsyncSQLiteTaskQueue(base_dir="some/path"), AsyncSQLiteTaskQueue)
assert_type(AsyncSQLiteResultStorage(base_dir="some/path"), AsyncSQLiteResultStorage)

SQLiteTaskQueue(base_dir=1)  # type: ignore[arg-type]
SQLiteTaskQueue(base_dr="x")  # type: ignore[call-arg]
SQLiteTaskQueue("some/path")  # type: ignore[call-arg]
SQLiteTaskQueue(synchronous="OFF")  # type: ignore[arg-type]
SQLiteResultStorage(queues=["a"])  # type: ignore[call-arg]
queue.enqueue(greet, queue="high")  # type: ignore[call-arg]

# ── configuration ────────────────────────────────────────────────────────────

config = SQLiteTaskQueueConfig(project_name="shop", base_dir="some/path", queues=["high"])
assert_type(config, SQLiteTaskQueueConfig)
assert_type(SQLiteTaskQueue.from_config(config), SQLiteTaskQueue)
assert_type(SQLiteResultStorage.from_config(SQLiteResultStorageConfig(base_dir="x")), SQLiteResultStorage)
assert_type(SQLiteTaskQueue.from_dict({"base_dir": "x"}), SQLiteTaskQueue)
assert_type(SQLiteTaskQueue.from_url("sqlite:///x.db"), SQLiteTaskQueue)
SQLiteTaskQueueConfig(base_dir=1)  # type: ignore[arg-type]

assert_type(Settings.BASE_DIR, str)
assert_type(Settings.MAX_WORKERS, int | None)
assert_type(EnvConfig().settings(), Settings)
assert_type(ConfigProvider("omniq.yaml").load(), OmniQConfig)

# ── backends ─────────────────────────────────────────────────────────────────

backend = SQLiteBackend(project_name="shop", base_dir="some/path", queues=["high"])
assert_type(backend, SQLiteBackend)
plain_backend: BaseBackend = backend
assert_type(TaskQueue.from_backend(backend, queues=["high"]), TaskQueue)
assert_type(ResultStore.from_backend(backend), ResultStorage)
assert_type(EventStore.from_backend(backend), EventStorage)
SQLiteBackend(base_dir=1)  # type: ignore[arg-type]
SQLiteBackend(host="localhost")  # type: ignore[call-arg]

# ── workers ──────────────────────────────────────────────────────────────────

for worker_class in (AsyncWorker, ThreadPoolWorker, ProcessPoolWorker):
    worker_class(queue=queue, result_store=results, max_workers=2).start()
assert_type(ThreadPoolWorker(queue=queue), ThreadPoolWorker)

# ── the front door ───────────────────────────────────────────────────────────

oq = OmniQ(project_name="shop", task_queue=queue, result_store=results, event_store=events)
assert_type(oq, OmniQ)
assert_type(oq.enqueue(greet, ["Tom"]), TaskId)
assert_type(oq.get_task("id"), Task)
assert_type(oq.get_result("id"), Any)
flow = oq.enqueue_workflow(group(call(greet, ["Tom"]) for _ in range(2)).then(call(greet, [result_of("id")])))
assert_type(flow, Workflow)
assert_type(flow.ids, tuple[str, ...])
assert_type(flow.status(), dict[TaskState, int])
assert_type(flow.graph(), TaskDependencyGraph)
assert_type(chain(call(greet, ["Tom"])), Chain)
call(greet, ["Tom"], priority="high")  # type: ignore[arg-type]
assert_type(OmniQ.from_backend(backend), OmniQ)
oq.enqueue(greet, priority="high")  # type: ignore[arg-type]


async def main() -> None:
    async with AsyncOmniQ(task_queue=AsyncSQLiteTaskQueue(base_dir="some/path")) as aoq:
        assert_type(aoq, AsyncOmniQ)
        assert_type(await aoq.enqueue(greet, ["Tom"]), TaskId)
        plain: AsyncTaskQueue[Any] = aoq.task_queue
        assert_type(await plain.get_task("id"), Task)


# ── declared tasks ───────────────────────────────────────────────────────────


@oq.task(worker="process", queue="high", retries=3, timeout=10, on_failure=print)
def area(width: int, height: int = 2) -> int:
    return width * height


@AsyncOmniQ().task()
async def named(name: str) -> str:
    return name


class Shop:
    @oq.task()
    def sell(self, count: int) -> str:
        return str(count)


assert_type(Shop().sell(1), str)
assert_type(Shop().sell.enqueue(1), TaskId)
assert_type(Shop.sell.enqueue(Shop(), 1), TaskId)
Shop().sell.enqueue("1")  # type: ignore[arg-type]

assert_type(area(1), int)
assert_type(area.enqueue(1, height=2), TaskId)
assert_type(area.options(priority=5).enqueue(3), TaskId)
assert_type(area.result("id", timeout=5), int)
assert_type(area.schedule("0 9 * * *", 1), str)
assert_type(area.schedule({"interval": 5, "schedule_id": "x"}, 1, height=3), str)
oq.enqueue_many([area.call(1), call(area, [result_of("id")])])
oq.enqueue_many([oq.call(area, [1], priority=5), (area, [1]), (area, {"width": 1}), (area, [1], {"height": 2})])
assert_type(oq.call(area, [1]), TaskCall)
oq.call(area, [1], prio=5)  # type: ignore[call-arg]
oq.enqueue_many([area])  # type: ignore[list-item]

area.enqueue("1")  # type: ignore[arg-type]
area.enqueue()  # type: ignore[call-arg]
area.enqueue(1, depth=2)  # type: ignore[call-arg]
area.schedule("0 9 * * *")  # type: ignore[call-arg]
area.schedule(3, 1)  # type: ignore[arg-type]
area.options(prio=5)  # type: ignore[call-arg]
oq.task(retries="3")  # type: ignore[arg-type]
oq.task(task_id="x")  # type: ignore[call-arg]
oq.task(print)  # type: ignore[arg-type]


async def declared() -> None:
    assert_type(await named("a"), str)
    assert_type(await named.result(await named.enqueue("a")), str)
    await named.enqueue(3)  # type: ignore[arg-type]


# ── names ────────────────────────────────────────────────────────────────────

assert_type(omniq.__version__, str)
assert_type(omniq.current_task().id, str)
assert_type(Retry(delay=1.0).delay, float | None)
omniq.OmniQue  # type: ignore[attr-defined]  # noqa: B018
