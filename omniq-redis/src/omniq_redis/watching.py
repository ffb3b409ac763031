"""Hearing what others have written: the scripts publish it, and one subscription for each event loop listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from omniq.storage.wakeups import News
from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub

from omniq_redis.config import RedisConfig
from omniq_redis.opening import Client, close_client, hang_up, open_subscriber, store_errors

QUIET = 10.0
"""Seconds of silence after which the server is asked whether it is still there."""
PATIENCE = 5.0
"""Seconds that it may take to answer."""
LONG = 86_400.0
"""Seconds after which is looked again, for what is due later than that."""

_decode_tasks = msgspec.msgpack.Decoder(tuple[str, list[tuple[str, float]]]).decode
_decode_results = msgspec.msgpack.Decoder(tuple[str, list[str]]).decode


class Subscription:
    """What one event loop hears of a server; `sender` is this process."""

    def __init__(self, settings: RedisConfig, sender: str) -> None:
        self._settings = settings
        self._sender = sender
        self._client: Client | None = None

    async def listen(self) -> AsyncIterator[News]:
        """What others tell, until the connection is lost. Raises `StoreError`."""
        tasks, results = (f"{self._settings.namespace}{name}" for name in ("tasks", "results"))
        with store_errors(self._settings):
            client = self._client = await open_subscriber(self._settings)
            try:
                async with aclosing(client.pubsub()) as subscription:
                    await subscription.subscribe(tasks, results)
                    while not _is_cancelled():
                        message = await _next_message(subscription)
                        if message is None:
                            continue
                        if message["type"] == "subscribe" and message["data"] == 2:
                            yield News()  # to both: nothing is missed from here on
                        elif message["type"] == "message":
                            yield self._news(message["channel"] == tasks.encode(), message["data"])
            finally:
                await close_client(client)

    def hang_up(self) -> None:
        """End it at once: its loop has ended."""
        if self._client is not None:
            hang_up(self._client)

    def _news(self, of_tasks: bool, data: bytes) -> News:
        """What a message tells that this process doesn't know: it has woken its own waiters for what is due now."""
        if of_tasks:
            sender, due = _decode_tasks(data)
            return News({queue: in_bounds(left) for queue, left in due if left > 0 or sender != self._sender})
        sender, ids = _decode_results(data)
        return News(ended=ids if sender != self._sender else ())


def in_bounds(seconds: float) -> float:
    """Seconds for which a loop can wait, whatever number a damaged task has."""
    return seconds if seconds < LONG else LONG


def _is_cancelled() -> bool:
    """Whether this task was cancelled and redis-py has swallowed that: nobody may cancel it again, as `asyncio.run`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _next_message(subscription: PubSub) -> Any:
    """The next message, however long it takes; None when this task is cancelled.

    Raises `TimeoutError` of redis-py when the server is gone.
    """
    message = await subscription.get_message(timeout=QUIET)
    while message is None and not _is_cancelled():
        await subscription.ping()
        message = await subscription.get_message(timeout=PATIENCE)
        if message is None and not _is_cancelled():
            raise redis_errors.TimeoutError("the server doesn't answer")
    return message
