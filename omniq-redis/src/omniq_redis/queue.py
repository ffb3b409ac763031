"""Tasks and schedules in Redis. Each method runs one Lua script, or the same one for each part of a large batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from omniq.backend.component import Configured, configured_by
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.facade import TaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.records import Added, Change, Changed, NewBody, NewTask
from omniq.storage.sizes import change_bytes
from omniq.storage.wakeups import News

from omniq_redis.claiming import Claiming
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.finding import Finding
from omniq_redis.results import RedisResultStore
from omniq_redis.schedules import Schedules
from omniq_redis.wire import (
    CHANGED,
    PARCEL,
    added,
    bodies_batch,
    changes_batch,
    flags,
    parcels,
    tasks_batch,
    weight_of_body,
    weight_of_task,
)


class RedisQueueStore(Claiming, Finding, Schedules):
    """Tasks and schedules on a Redis server."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ATOMIC_RESULTS,
            Capability.CROSS_PROCESS,
            Capability.PERSISTENT,
            Capability.PRIORITY,
            Capability.PUSH,
            Capability.UNIQUE,
        }
    )

    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(config)
        self._results = RedisResultStore(config)

    def result_storage(self) -> RedisResultStore:
        return self._results

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        batches = map(tasks_batch, parcels(tasks, weight_of_task, self.max_item_bytes))
        answers = await self._connection.calls("add", batches)
        self.wakeups.tell(News(due=None))
        return [each for answer in answers for each in added(answer)]

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        batches = map(changes_batch, parcels(changes, change_bytes, self.max_item_bytes))
        answers = await self._connection.calls("transition", batches)
        # This process's waiters are woken at once; the others hear it from the server.
        if any(change.to is TaskState.PENDING for change in changes):
            self.wakeups.tell(News(due=None))
        self.wakeups.tell(News(ended=[change.task_id for change in changes if change.result is not None]))
        return [CHANGED[letter] for answer in answers for letter in answer]

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        batches = map(bodies_batch, parcels(bodies, weight_of_body, self.max_item_bytes))
        return flags(await self._connection.calls("replace_bodies", batches))

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        await self._connection.call("workers", [older_than])
        return int(await self._connection.call("purge", (older_than, min(limit, PARCEL))))

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._connection.call("pause", (queue_name, paused))
        self.wakeups.tell(News(due=None))

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.channel.for_tasks(queues, timeout)


class AsyncRedisTaskQueue(Configured, AsyncTaskQueue[RedisTaskQueueConfig]):
    """A task queue on a Redis server. Takes the fields of `RedisTaskQueueConfig`."""

    @configured_by(RedisTaskQueueConfig)
    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(RedisQueueStore, config)


class RedisTaskQueue(Configured, TaskQueue):
    """`AsyncRedisTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(RedisTaskQueueConfig)
    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(AsyncRedisTaskQueue.from_config(config))
