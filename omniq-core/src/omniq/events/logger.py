"""Logging events without slowing a task: buffered, written in batches, dropped when there are too many."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, TypedDict, Unpack

from omniq import clock
from omniq.errors import StoreError
from omniq.models.event import TaskEvent
from omniq.models.state import EventType
from omniq.storage.base import BaseEventStorage
from omniq.sync import PerLoop

log = logging.getLogger("omniq.events")


class EventFields(TypedDict, total=False):
    """The fields of a `TaskEvent` beside its type."""

    time: float
    """Seconds since the epoch; now if not given."""
    task_id: str | None
    schedule_id: str | None
    queue_name: str | None
    worker: str | None
    attempt: int | None
    data: dict[str, Any]
    """Plain JSON types."""


class AsyncEventLogger:
    """Takes events and writes them behind the caller's back.

    `capacity` events are kept while the store is slow or away; beyond that the newest are dropped and
    counted in `dropped`. Nothing that goes wrong here reaches a task.
    """

    def __init__(self, store: BaseEventStorage, *, capacity: int = 10_000, batch: int = 500) -> None:
        self._store = store
        self._capacity = capacity
        self._batch = batch
        self._buffers = PerLoop(self._make_buffer)
        self.enabled = True
        """False stops events at the source."""
        self.dropped = 0
        """How many events were dropped because the buffer was full."""

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event of now; returns at once."""
        if not self.enabled:
            return
        fields.setdefault("time", clock.now())
        event = TaskEvent(type=type, **fields)
        buffer = self._buffers.get()
        if len(buffer.events) >= self._capacity:
            self._drop()
            return
        buffer.push(event)

    async def connect(self) -> None:
        """Connect the store. Raises `StoreError`."""
        await self._store.connect()

    async def close(self) -> None:
        """Write what was logged on this loop, and give back its connections."""
        await self.flush()
        await self._store.close()

    async def flush(self) -> None:
        """Wait until what was logged on this loop is written, or the store has failed."""
        await self._buffers.get().flushed()

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped == 1 or self.dropped % 10_000 == 0:
            log.warning("%d events dropped: the event store is slower than the tasks", self.dropped)

    def _make_buffer(self) -> _Buffer:
        return _Buffer(self._store, self._batch)


class _Buffer:
    """The events of one loop, and the task that writes them."""

    def __init__(self, store: BaseEventStorage, batch: int) -> None:
        self.events: deque[TaskEvent] = deque()
        self._store = store
        self._batch = batch
        self._writer: asyncio.Task[None] | None = None

    def push(self, event: TaskEvent) -> None:
        self.events.append(event)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def flushed(self) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        failures = 0
        while self.events and failures < 5:
            batch = [self.events.popleft() for _ in range(min(self._batch, len(self.events)))]
            try:
                await self._store.append(batch)
                failures = 0
            except StoreError as error:
                failures += 1
                self.events.extendleft(reversed(batch))
                log.warning("events can't be written, trying again: %s", error)
                await asyncio.sleep(0.1 * 2**failures)
