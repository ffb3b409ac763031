"""What the tests of Redis share: stores, tasks and changes in one line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter

from omniq.models.task import TaskState, new_id
from omniq.storage.base import carry_out
from omniq.storage.records import NEW, Change, NewTask, ResultRecord, TaskRecord
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.queue import RedisQueueStore

QUEUE = "default"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisQueueStore]:
    """A connected store, which is closed afterwards, with its results."""
    store = RedisQueueStore(RedisTaskQueueConfig.from_url(url))
    await store.connect()
    try:
        yield store
    finally:
        await store.result_storage().close()
        await store.close()


def task(task_id: str | None = None, *, body: bytes = b"body", delay: float = 0.0, ttl: float | None = None) -> NewTask:
    return NewTask(id=task_id or new_id(), queue_name=QUEUE, body=body, delay=delay, ttl=ttl)


async def add_all(store: RedisQueueStore, tasks: Sequence[NewTask]) -> None:
    """Add them, however many, which are all new."""
    assert set(await carry_out(store, store.add, tasks, id_of=attrgetter("id"))) == {NEW}


async def claim(store: RedisQueueStore, limit: int = 100) -> list[TaskRecord]:
    return await store.claim([QUEUE], limit=limit, lease=30.0, worker="w")


def success(record: TaskRecord, body: bytes = b"result", ttl: float | None = None) -> Change:
    result = ResultRecord(
        task_id=record.id,
        epoch=record.epoch,
        status=TaskState.SUCCESS,
        body=body,
        ttl=ttl,
        schedule_id=record.schedule_id,
    )
    return Change(
        task_id=record.id,
        to=TaskState.SUCCESS,
        from_states=(TaskState.RUNNING,),
        epoch=record.epoch,
        result=result,
    )


async def elapsed(call: Awaitable[object]) -> float:
    """How many seconds it takes."""
    began = time.monotonic()
    await call
    return time.monotonic() - began


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Ask again until the answer is yes."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def listening(store: RedisQueueStore) -> None:
    """Wait until the store hears what others tell."""

    async def hears() -> bool:
        await store.wait(["nothing"], 0.01)
        return store._connection.channel.live

    await until(hears)
