"""Short ways to say what the tests of PostgreSQL's own features are about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from omniq.storage.records import NewTask
from omniq.testing.builders import new_task
from omniq_postgres.queue import PostgresQueueStore

if TYPE_CHECKING:
    from omniq_postgres.connection import Database

QUEUE = "default"
PATIENCE = 10.0
"""Seconds within which what should happen at once must have happened, on a slow machine too."""


def tasks(count: int, prefix: str = "t") -> list[NewTask]:
    return [new_task(f"{prefix}{number:06}") for number in range(count)]


def database_of(store: PostgresQueueStore) -> Database:
    """What the running loop has open for a store."""
    return store._connection


async def until(probe: Callable[[], Awaitable[object]], *, patience: float = PATIENCE) -> float:
    """Ask until the answer is true; returns the seconds that it took."""
    began = time.monotonic()
    while not await probe():
        assert time.monotonic() - began < patience, "it didn't happen"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def seconds_of(call: Awaitable[object]) -> float:
    """How long a call took."""
    began = time.monotonic()
    await call
    return time.monotonic() - began


async def listening(store: PostgresQueueStore) -> None:
    """Wait until notifications reach the store."""
    waiting = asyncio.create_task(store.wait(["nothing"], PATIENCE))
    await until(lambda: _value(database_of(store).channel.live))
    await waiting  # it began before, and so is short


async def _value(value: object) -> object:
    return value
