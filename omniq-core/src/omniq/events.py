"""Events: what is kept of them, and logging them without slowing a task."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import msgspec

from omniq import clock
from omniq.backend import AsyncComponent, BaseBackend, check_backend
from omniq.batching import apart, repeating
from omniq.clock import Duration, seconds, timestamp
from omniq.errors import ConfigError, InvalidTask, StoreError, StoreUnavailable, ValueRefused
from omniq.loops import PerLoop, forget, spawn
from omniq.models.config import BreakerConfig, EventStorageConfig
from omniq.models.task import EventType, TaskEvent, TaskRef, check_id, check_limit, id_of
from omniq.plugins.registry import load_class
from omniq.storage.base import BaseEventStorage
from omniq.storage.records import EventFilter
from omniq.sync import Blocking, blocking, cancel_and_wait, portal
from omniq.texts import cut, get_logger

# ── logging ─────────────────────────────────────────────────────────────────


log = get_logger("omniq.events")
_encode = msgspec.json.Encoder().encode

MAX_TEXT = 1024
"""Characters of a text in an event's data."""
MAX_DATA = 16 * 1024
"""Bytes of an event's data, as JSON."""
MAX_FAILURES = 5
"""In a row, after which the writer waits for the next event before it tries again."""
SILENCE = 2.0
"""Seconds for which a flush waits for the answer to one write."""


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
    """Plain JSON types. Texts are cut to 1,024 characters; of data with more than 16 KiB only the size is kept."""


class AsyncEventLogger:
    """Takes events and writes them behind the caller's back.

    `capacity` events are kept while the store is slow or away; beyond that the newest are dropped and
    counted in `dropped`, as are those that the store refuses. Nothing that goes wrong here reaches a task.
    """

    def __init__(self, store: BaseEventStorage, *, capacity: int = 10_000, batch: int = 500) -> None:
        self.store = store
        self._capacity = capacity
        self._batch = batch
        self._buffers = PerLoop(self._make_buffer, _Buffer.abandon)
        self.enabled = True
        """False stops events at the source."""
        self.dropped = 0
        """How many events were dropped because the buffer was full, or the store refused them."""

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event of now; returns at once."""
        if not self.enabled:
            return
        fields.setdefault("time", clock.now())
        if fields.get("data"):
            try:
                fields["data"] = _bounded(fields["data"])
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                log.warning(
                    "an event is dropped, since its data can't be written as JSON: %s", error.__class__.__name__
                )
                self._drop(1)
                return
        event = TaskEvent(type=type, **fields)
        buffer = self._buffers.get()
        if len(buffer.events) >= self._capacity:
            self._drop(1)
            return
        buffer.push(event)

    async def connect(self) -> None:
        """Connect the store. Raises `StoreError`."""
        await self.store.connect()

    async def close(self) -> None:
        """Write what was logged on this loop, or drop it if that fails, and give back the loop's connections."""
        buffer = self._buffers.pop()
        if buffer is not None:
            await buffer.flushed()
            await buffer.end()
        await self.store.close()

    async def flush(self) -> None:
        """Wait until what was logged on this loop is written, or the store has failed."""
        await self._buffers.get().flushed()

    def _drop(self, count: int) -> None:
        if self.dropped // 10_000 != (self.dropped + count) // 10_000 or self.dropped == 0:
            log.warning("events are dropped, %d so far: the event store is too slow, or away", self.dropped + count)
        self.dropped += count

    def _make_buffer(self) -> _Buffer:
        return _Buffer(self.store, self._batch, self._drop)


def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    """The data, or what is kept of it where it is large."""
    short = {key: cut(value, MAX_TEXT) if isinstance(value, str) else value for key, value in data.items()}
    size = len(_encode(short))
    return short if size <= MAX_DATA else {"omitted_bytes": size}


class _Buffer:
    """The events of one loop, and the task that writes them."""

    def __init__(self, store: BaseEventStorage, batch: int, drop: Callable[[int], None]) -> None:
        self.events: deque[TaskEvent] = deque()
        self._store = store
        self._batch = batch
        self._drop = drop
        self._writer: asyncio.Task[None] | None = None
        self._failures = 0
        """In a row, just now."""
        self._tried = asyncio.Event()

    def push(self, event: TaskEvent) -> None:
        self.events.append(event)
        if self._writer is None or self._writer.done():
            self._failures = 0
            self._writer = spawn(self._write())

    async def flushed(self) -> None:
        """Wait until all is written, or a write has failed, or the store doesn't answer."""
        with suppress(TimeoutError):
            while self.events_in_hand and not self._failures:
                self._tried.clear()
                async with asyncio.timeout(SILENCE):
                    await self._tried.wait()

    @property
    def events_in_hand(self) -> bool:
        return self._writer is not None and not self._writer.done()

    async def end(self) -> None:
        """Write no more; what is left is dropped."""
        if self._writer is not None:
            await cancel_and_wait(self._writer)
        self._tried.set()
        if self.events:
            self._drop(len(self.events))

    def abandon(self) -> None:
        """Its loop has ended, and what is left isn't written any more."""
        forget(self._writer)
        if self.events:
            self._drop(len(self.events))

    async def _write(self) -> None:
        try:
            while self.events and self._failures < MAX_FAILURES:
                await self._write_batch()
        finally:
            self._tried.set()

    async def _write_batch(self) -> None:
        batch = [self.events.popleft() for _ in range(min(self._batch, len(self.events)))]
        answers = await apart(self._append, batch)
        failed = [(event, error) for event, error in zip(batch, answers, strict=True) if error is not None]
        left = _to_repeat(failed, len(batch))
        if len(left) < len(failed):
            self._drop(len(failed) - len(left))
            log.error("%d events can't be written", len(failed) - len(left), exc_info=failed[0][1])
        if left:
            await self._put_back(left, failed[-1][1])
        else:
            self._failures = 0
            self._tried.set()

    async def _put_back(self, events: Sequence[TaskEvent], error: Exception) -> None:
        self._failures += 1
        self._tried.set()
        self.events.extendleft(reversed(events))
        log.warning("events can't be written, trying again: %s", error)
        await asyncio.sleep(0.1 * 2**self._failures)

    async def _append(self, events: Sequence[TaskEvent]) -> Sequence[None]:
        await self._store.append(events)
        return [None] * len(events)


def _to_repeat(failed: Sequence[tuple[TaskEvent, Exception]], tried: int) -> list[TaskEvent]:
    """Those that failed by the store's fault: it is away, or refuses all. One that it refuses of many is to blame."""
    is_away = len(failed) == tried or any(isinstance(error, StoreUnavailable) for _, error in failed)
    return [event for event, error in failed if is_away and _is_the_stores(error)]


def _is_the_stores(error: Exception) -> bool:
    return isinstance(error, StoreError) and not isinstance(error, ValueRefused)


# ── the event store ─────────────────────────────────────────────────────────


C = TypeVar("C", bound=EventStorageConfig)


class EventConditions(TypedDict, total=False):
    """Which events are listed; conditions that are given must all hold."""

    task_id: TaskRef | None
    schedule_id: str | None
    type: EventType | str | Sequence[EventType | str] | None
    """One type, or several."""
    queue_name: str | None
    worker: str | None
    """Those that this worker saw."""
    since: dt.datetime | None
    """From this (aware) time on."""
    until: dt.datetime | None
    """Before this (aware) time."""
    limit: int
    """How many, from 1 to 10,000; 100 if not given."""


class AsyncEventStorage(AsyncComponent[C, BaseEventStorage], Generic[C]):
    """An event storage on a store."""

    def __init__(self, store: Callable[[C], BaseEventStorage], config: C, breaker: BreakerConfig | None = None) -> None:
        super().__init__(store, config, breaker)

    def as_part(self, project: str | None, breaker: BreakerConfig | None = None) -> AsyncEventStorage[C]:
        """The same storage as part of something larger: in its project, unless it was given its own."""
        return AsyncEventStorage(*self._at(project), self._own_breaker or breaker)

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> AsyncEventStorage[Any]:
        """A backend's event storage. Raises `ConfigError` if it keeps no events."""
        spec, config = check_backend(backend).specs.event_store, backend.event_store_config(**overrides)
        if spec is None or config is None:
            raise ConfigError(f"event_store: {backend.name} keeps no events")
        return AsyncEventStorage(load_class(spec.store, BaseEventStorage), config)  # type: ignore[type-abstract]

    @repeating
    async def list(
        self,
        *,
        task_id: TaskRef | None = None,
        schedule_id: str | None = None,
        type: EventType | str | Sequence[EventType | str] | None = None,
        queue_name: str | None = None,
        worker: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        limit: int = 100,
    ) -> list[TaskEvent]:
        """The newest `limit` events that match, oldest first: from `since` on, and before `until`.

        Raises `InvalidTask` for what can't be an id or a limit.
        """
        where = EventFilter(
            task_id=None if task_id is None else id_of(task_id),
            schedule_id=None if schedule_id is None else check_id(schedule_id, "schedule_id"),
            queue_name=None if queue_name is None else check_id(queue_name, "queue_name"),
            worker=None if worker is None else check_id(worker, "worker"),
            types=_types(type),
            since=timestamp("since", since),
            until=timestamp("until", until),
        )
        page = await (await self.ready()).query(where, limit=check_limit(limit))
        return page.events[::-1]

    async def purge(self, older_than: Duration) -> int:
        """Delete events from more than `older_than` ago; returns how many."""
        before = clock.now() - (seconds("older_than", older_than) or 0.0)
        deleted = 0
        while (count := await (await self.ready()).purge(before=before)) > 0:
            deleted += count
        return deleted


def _types(type: EventType | str | Sequence[EventType | str] | None) -> tuple[EventType, ...]:
    if type is None:
        return ()
    try:
        return tuple(EventType(name) for name in ([type] if isinstance(type, str) else type))
    except ValueError as error:
        raise InvalidTask(f"type: {error}; expected one of {', '.join(EventType)}") from None


# ── blocking ────────────────────────────────────────────────────────────────


class EventStorage(Blocking[AsyncEventStorage[Any]]):
    """An event storage whose methods block; `aio` is its async core."""

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> EventStorage:
        """A backend's event storage. Raises `ConfigError` if it keeps no events."""
        return EventStorage(AsyncEventStorage.from_backend(backend, **overrides))

    list = blocking(AsyncEventStorage.list)
    purge = blocking(AsyncEventStorage.purge)


class EventLogger(Blocking[AsyncEventLogger]):
    """Logs events from blocking code: `log` returns at once, `flush` when all is written."""

    def __init__(self, storage: EventStorage) -> None:
        super().__init__(AsyncEventLogger(storage.aio.store))

    flush = blocking(AsyncEventLogger.flush)

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event; returns at once."""
        self.connect()
        portal().loop.call_soon_threadsafe(functools.partial(self.aio.log, type, **fields))
