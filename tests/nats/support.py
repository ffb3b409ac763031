"""Stores on NATS, and waiting for what the others see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

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


async def stream_state(store: NATSQueueStore) -> dict[str, Any]:
    """What the server says of the stream."""
    connection = store._connection
    stream = connection.place.stream
    assert isinstance(stream, NATSStream)
    found: dict[str, Any] = (await connection.run(stream.info()))["state"]
    return found
