"""Stores to test on, and what tests of the engine and of the workers do again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import field
from msgspec.structs import replace
from omniq import AsyncOmniQ, OmniQ
from omniq.config.loader import Security, TaskDefaults
from omniq.events import AsyncEventStorage
from omniq.models import EventStorageConfig, ResultStorageConfig, TaskQueueConfig, TaskState
from omniq.models.config import DEFAULT_MAX_BODY, Bytes, Name, Serializer, default_queues
from omniq.models.task import new_id
from omniq.queue import AsyncTaskQueue
from omniq.results import AsyncResultStorage
from omniq.storage import BaseEventStorage, BaseResultStorage, BaseTaskQueue
from omniq.storage.records import NEW, Change, Changed, NewTask, TaskRecord
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore, ReferenceSpace
from omniq.workers import AsyncWorkerPool, WorkerPool
from omniq_sqlite.config import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig
from omniq_sqlite.events import SQLiteEventStore
from omniq_sqlite.queue import SQLiteQueueStore
from omniq_sqlite.results import SQLiteResultStore

QUEUES = ("high", "default", "low")
KINDS = ("async", "thread", "process", "gevent")
NO_RETRIES = TaskDefaults(max_retries=0)
FAST: dict[str, Any] = {"lease": 2.0, "reap_interval": 0.1, "poll_interval": 0.2, "grace_period": 5.0, "max_workers": 2}
"""A worker that notices everything soon."""
SOON = 30.0
"""Seconds after which something that should have happened at once won't happen any more, on a busy machine too."""


@dataclass(frozen=True)
class Place:
    """Where tasks, results and events live: each call gives another store at the same location."""

    queue: Callable[[], BaseTaskQueue]
    results: Callable[[], BaseResultStorage]
    events: Callable[[], BaseEventStorage]


def reference_place(
    space: ReferenceSpace | None = None,
    *,
    queue: Callable[[ReferenceSpace], BaseTaskQueue] = ReferenceQueueStore,
    results: Callable[[ReferenceSpace], BaseResultStorage] = ReferenceResultStore,
    events: Callable[[ReferenceSpace], BaseEventStorage] = ReferenceEventStore,
) -> Place:
    """A place in this process, with other classes for some of its stores where a test brings its own."""
    space = space or ReferenceSpace()
    return Place(partial(queue, space), partial(results, space), partial(events, space))


def sqlite_place(directory: Path) -> Place:
    """A place in a file of that directory. A test doesn't need its commits to survive a power loss."""
    path = str(directory / "omniq.db")
    return Place(
        lambda: SQLiteQueueStore(SQLiteTaskQueueConfig(path=path, synchronous="NORMAL")),
        lambda: SQLiteResultStore(SQLiteResultStorageConfig(path=path, synchronous="NORMAL")),
        lambda: SQLiteEventStore(SQLiteEventStorageConfig(path=path, synchronous="NORMAL")),
    )


class QueueConfig(TaskQueueConfig, frozen=True, kw_only=True):
    """Of a queue whose store needs none itself."""

    queues: list[Name] = field(default_factory=default_queues)
    serializer: Serializer = "auto"
    max_body: Bytes = DEFAULT_MAX_BODY


AnyQueue: TypeAlias = AsyncTaskQueue[QueueConfig]


def task_queue(
    place: Place,
    *,
    queues: Sequence[str] = QUEUES,
    defaults: TaskDefaults = NO_RETRIES,
    security: Security | None = None,
) -> AnyQueue:
    """A task queue at that place, whose tasks aren't tried again unless they say so."""
    config = QueueConfig(queues=list(queues))
    return AsyncTaskQueue(lambda _: place.queue(), config, defaults=defaults, security=security)


def result_storage(place: Place, security: Security | None = None) -> AsyncResultStorage[ResultStorageConfig]:
    """The results at that place."""
    return AsyncResultStorage(lambda _: place.results(), ResultStorageConfig(), security=security)


def event_storage(place: Place) -> AsyncEventStorage[EventStorageConfig]:
    """The events at that place."""
    return AsyncEventStorage(lambda _: place.events(), EventStorageConfig())


def front_door(
    place: Place,
    *,
    queues: Sequence[str] = QUEUES,
    defaults: TaskDefaults = NO_RETRIES,
    security: Security | None = None,
    events: bool = False,
) -> AsyncOmniQ:
    """OmniQ at that place."""
    return AsyncOmniQ(
        task_queue=task_queue(place, queues=queues, defaults=defaults, security=security),
        result_store=result_storage(place, security),
        event_store=event_storage(place) if events else None,
    )


def blocking_door(place: Place, *, events: bool = False) -> OmniQ:
    """OmniQ with methods that block, whose worker is a fast one."""
    return OmniQ(
        task_queue=task_queue(place),
        result_store=result_storage(place),
        event_store=event_storage(place) if events else None,
        worker_config=FAST,
    )


@asynccontextmanager
async def working(oq: AsyncOmniQ, kind: str, **config: Any) -> AsyncIterator[AsyncWorkerPool]:
    """A fast worker on the running loop, which must not have failed by its end."""
    pool = oq.worker_pool(kind, **{**FAST, **config})
    async with pool:
        yield pool
    assert pool.failure is None


@asynccontextmanager
async def working_elsewhere(oq: AsyncOmniQ, kind: str, **config: Any) -> AsyncIterator[AsyncWorkerPool]:
    """A fast worker on a thread and a loop of its own."""
    pool = oq.worker_pool(kind, **{**FAST, **config})
    blocking = WorkerPool(pool)
    await asyncio.to_thread(blocking.start)
    try:
        yield pool
    finally:
        await asyncio.to_thread(blocking.stop)
    assert pool.failure is None


async def until(condition: Callable[[], bool], timeout: float = SOON) -> None:
    """Wait for a condition that nothing tells of, such as a file that another process writes."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        await asyncio.sleep(0.005)


async def until_states(oq: AsyncOmniQ, task_ids: Sequence[str], *states: TaskState) -> None:
    """Wait until all these tasks are in one of these states."""
    deadline = time.monotonic() + SOON
    while not set(found := await states_of(oq, task_ids)) <= set(states):
        assert time.monotonic() < deadline, f"they are {found}"
        await asyncio.sleep(0.005)


async def until_outlived(oq: AsyncOmniQ, task_id: str, lease: float) -> None:
    """Wait until the lease that the task has now would be over, had it not been renewed."""
    first, deadline = await _lease_until(oq, task_id), time.monotonic() + SOON
    while await _lease_until(oq, task_id) < first + lease:
        assert time.monotonic() < deadline, "its lease isn't renewed"
        await asyncio.sleep(0.005)


async def _lease_until(oq: AsyncOmniQ, task_id: str) -> float:
    (record,) = await oq.task_queue.store.get([task_id])
    assert record is not None
    assert record.lease_until is not None, f"it is {record.state}"
    return record.lease_until


async def states_of(oq: AsyncOmniQ, task_ids: Sequence[str]) -> list[TaskState]:
    """The states of these tasks."""
    return [(await oq.get_task(id_)).state for id_ in task_ids]


async def results_of(oq: AsyncOmniQ, task_ids: Sequence[str]) -> list[Any]:
    """The values of these tasks, once they have ended."""
    return list(await asyncio.gather(*(oq.get_result(id_, timeout=SOON) for id_ in task_ids)))


def lines(path: Path) -> list[str]:
    """What tasks have noted there."""
    return path.read_text().split() if path.exists() else []


class GatedQueueStore(ReferenceQueueStore):
    """A reference store that can hold claims back once they have taken effect, and transitions before they do."""

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.gates: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}

    def hold(self, call: str) -> None:
        """Hold this call back from now on."""
        self.gates[call], self.reached[call] = asyncio.Event(), asyncio.Event()

    def let_go(self, call: str) -> None:
        """Let it pass."""
        self.gates[call].set()

    async def _pass(self, call: str) -> None:
        if call in self.gates:
            self.reached[call].set()
            await self.gates[call].wait()

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        claimed = await super().claim(queues, limit=limit, lease=lease, worker=worker)
        if claimed:
            await self._pass("claim")
        return claimed

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        await self._pass("transition")
        return await super().transition(changes)


async def plant(oq: AsyncOmniQ, *, body: bytes | None = None, **call: Any) -> str:
    """Add a task that `enqueue` wouldn't: with these bytes, or with these fields of its call changed."""
    task_id, queue = new_id(), oq.task_queue
    if body is None:
        changed = replace(queue.serialization.build_call(noop, (), {}), **call)
        body = queue.serialization.reseal(changed, task_id=task_id, queue_name="default")
    assert await queue.store.add([NewTask(id=task_id, queue_name="default", body=body)]) == [NEW]
    return task_id


def noop() -> None:
    """Do nothing."""
