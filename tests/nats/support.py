"""Stores on NATS, and waiting for what the others see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from omniq.errors import StoreUnavailable
from omniq.storage.connected import Connections
from omniq_nats.config import NATSTaskQueueConfig
from omniq_nats.connection import open_replica
from omniq_nats.queue import NATSQueueStore
from omniq_nats.stream import NATSStream

QUEUE = "default"
PATIENCE = 20.0


def lone_store(url: str) -> NATSQueueStore:
    """A store that shares nothing with others of this process, as if it were in another one."""
    kind = type("LoneStore", (NATSQueueStore,), {"connections": Connections(open_replica, of_process=True)})
    store: NATSQueueStore = kind(NATSTaskQueueConfig.from_url(url))
    return store


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[NATSQueueStore]:
    """A connected store, which is closed afterwards."""
    store = lone_store(url)
    try:
        await store.connect()
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], Awaitable[bool]], reason: str = "it doesn't happen") -> None:
    """Ask again until the answer is yes."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, reason
        await asyncio.sleep(0.02)


async def has(store: NATSQueueStore, ids: Sequence[str]) -> list[bool] | None:
    """Which of the tasks there are; None while the store connects anew."""
    try:
        return [row is not None for row in await store.get(ids)]
    except StoreUnavailable:
        return None


async def stream_state(store: NATSQueueStore) -> dict[str, Any]:
    """What the server says of the stream."""
    found: dict[str, Any] = (await in_loop(store, stream_of(store).info()))["state"]
    return found


def stream_of(store: NATSQueueStore) -> NATSStream:
    """The stream that the store uses."""
    stream = store._connection.place.stream
    assert isinstance(stream, NATSStream)
    return stream


async def in_loop(store: NATSQueueStore, call: Any) -> Any:
    """What a call answers, on the loop that the store's connection has."""
    return await store._connection.run(call)


async def be_deaf(store: NATSQueueStore) -> None:
    """Let it hear nothing of what is added."""
    client = stream_of(store)._client
    assert client is not None
    for subscription in list(client._subs.values()):
        if subscription.subject == stream_of(store)._news:
            await in_loop(store, subscription.unsubscribe())
