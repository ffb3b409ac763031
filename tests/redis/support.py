"""What the tests of Redis share: stores, tasks and changes in one line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter

from omniq.storage.base import carry_out
from omniq.storage.records import NEW, NewTask
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


async def add_all(store: RedisQueueStore, tasks: Sequence[NewTask]) -> None:
    """Add them, however many, which are all new."""
    assert set(await carry_out(store, store.add, tasks, id_of=attrgetter("id"))) == {NEW}


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
