"""Logging events without slowing a task."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypedDict, Unpack

import msgspec
from msgspec.structs import asdict

from omniq import clock
from omniq.batching import Backoff, apart, within
from omniq.config.convert import convert
from omniq.config.loader import EventsConfig
from omniq.errors import ConfigError, StoreError, StoreUnavailable, ValueRefused
from omniq.events.storage import EventStorage, event_types
from omniq.loops import PerLoop, forget, spawn
from omniq.models.event import EventLevel, EventType, TaskEvent
from omniq.models.task import new_event_id
from omniq.storage.base import BaseEventStorage
from omniq.sync import Blocking, blocking, cancel_and_wait, portal
from omniq.texts import cut, get_logger

log = get_logger("omniq.events")
_encode = msgspec.json.Encoder().encode

MAX_TEXT: Final = 1024
"""Characters of a text in an event's data."""
MAX_DATA: Final = 16 * 1024
"""Bytes of an event's data, as JSON."""
BATCH: Final = 500
"""Events that are written at once."""
FIRST_PAUSE, MAX_PAUSE = 0.1, 2.0
"""Seconds until a store that is away is tried again."""
SILENCE: Final = 2.0
"""Seconds for which a flush waits for the answer to one write."""
CONNECTING: Final = 5.0
"""Seconds after which a store that doesn't answer is connected later."""
WRITE_LIMIT: Final = 30.0
"""Seconds after which a write that isn't answered is made again."""
TELL_AGAIN: Final = 10_000
"""Events that are dropped until that is logged again."""
PURGE_INTERVAL: Final = 60.0
PURGED_AT_ONCE: Final = 1000


class EventFields(TypedDict, total=False):
    """The fields of a `TaskEvent` beside its id and type."""

    time: float
    """Seconds since the epoch; now if not given."""
    task_id: str | None
    name: str | None
    schedule_id: str | None
    queue_name: str | None
    worker: str | None
    attempt: int | None
    data: dict[str, Any]
    """Plain JSON types. Texts are cut to 1,024 characters; of data with more than 16 KiB only the size is kept."""


class AnyTask(Protocol):
    """A task that is to be added, or is there."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def schedule_id(self) -> str | None: ...
    @property
    def queue_name(self) -> str: ...


def fields_of(task: AnyTask) -> EventFields:
    """What an event says of its task."""
    return {
        "task_id": task.id,
        "name": task.name or None,
        "schedule_id": task.schedule_id,
        "queue_name": task.queue_name,
    }


class AsyncEventLogger:
    """Takes events and writes them behind the caller's back.

    As many are kept as `EventsConfig.buffer` says while the store is slow or away; beyond that the newest are dropped
    and counted in `dropped`, as are those that the store refuses. Nothing that goes wrong here reaches a task.
    Without a configuration, the environment's holds.
    """

    def __init__(self, store: BaseEventStorage, config: EventsConfig | None = None) -> None:
        """Raises `ConfigError` for what isn't an event store."""
        if not isinstance(store, BaseEventStorage):
            raise ConfigError(f"store: expected an event store, got {type(store).__name__}")
        self.store = store
        self.config = EventsConfig.from_environment() if config is None else config
        """As `configure` has left it."""
        self._kept = self.config.kept
        self._buffers = PerLoop(self._make_buffer, _Buffer.abandon)
        self._is_away = False
        self.dropped = 0
        """How many events were dropped because the buffer was full, or the store refused them."""

    def configure(
        self,
        *,
        types: Iterable[EventType | str] | None = None,
        level: EventLevel | str | None = None,
        enabled: bool | None = None,
    ) -> None:
        """Choose which events are kept from now on, in this process: those of these `types` (`list(EventType)`: of all)
        that matter as much as `level` or more; none unless `enabled`. What isn't given stays as it is.

        Raises `ConfigError` naming the field.
        """
        chosen = list(types) if isinstance(types, Iterable) and not isinstance(types, str | bytes) else types
        given = {"types": chosen, "level": level, "enabled": enabled}
        changed = {name: value for name, value in given.items() if value is not None}
        self.take(convert({**asdict(self.config), **changed}, EventsConfig, "events"))

    def take(self, config: EventsConfig) -> None:
        """Keep events as this says from now on, in this process."""
        self.config = config
        self._kept = config.kept

    def keeps(self, type: EventType) -> bool:
        """Whether events of this type are kept."""
        return type in self._kept

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event of now; returns at once. Raises `InvalidTask` for a type that there isn't."""
        (known,) = event_types([type])
        if known in self._kept:
            self._take(known, fields)

    def log_task(self, type: EventType, task: AnyTask, **fields: Unpack[EventFields]) -> None:
        """As `log`, of a task."""
        if type in self._kept:
            self._take(type, {**fields_of(task), **fields})

    def _take(self, type: EventType, fields: EventFields) -> None:
        buffer = self._buffers.get()
        if buffer.length >= self.config.buffer:
            self._drop(1)
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
        buffer.push(TaskEvent(id=new_event_id(), type=type, **fields))

    async def log_tasks(self, type: EventType, tasks: Iterable[AnyTask], **fields: Unpack[EventFields]) -> None:
        """As `log`, for many tasks, so that none is dropped: waits while half of the buffer is full.

        A store that is away, or silent, isn't waited for.
        """
        if type not in self._kept:
            return
        buffer, half = self._buffers.get(), self.config.buffer // 2
        for task in tasks:
            if buffer.length >= half:
                await buffer.until_at_most(half // 2)
            self._take(type, {**fields_of(task), **fields})

    async def connect(self) -> None:
        """Connect the store; one that is away is connected later, as is one that is to keep nothing just now.

        Raises `StoreError` for one that can't be used.
        """
        if not self._kept:
            return
        try:
            await within(CONNECTING, self.store.connect())
        except (StoreUnavailable, TimeoutError) as error:
            self._note_answer(error)

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

    async def keep_retention(self) -> None:
        """Delete what is older than `EventsConfig.retention`, every minute, until cancelled. Every worker does."""
        while True:
            await asyncio.sleep(PURGE_INTERVAL * random.uniform(0.75, 1.25))
            try:
                await self.purge()
            except StoreError as error:
                log.warning("old events can't be deleted, trying again: %s", error)
            except Exception:  # whatever a store does: tasks don't depend on it
                log.exception("old events can't be deleted, trying again")

    async def purge(self) -> int:
        """Delete what is older than `EventsConfig.retention` now; returns how many. Raises `StoreError`.

        Between two calls it rests for as long as the first one took.
        """
        deleted, retention = 0, self.config.retention
        if retention is None:
            return 0
        while True:
            began = time.monotonic()
            count = await self.store.purge(before=clock.now() - retention, limit=PURGED_AT_ONCE)
            deleted += count
            if count < PURGED_AT_ONCE:
                return deleted
            await asyncio.sleep(time.monotonic() - began)

    def _drop(self, count: int) -> None:
        if self.dropped // TELL_AGAIN != (self.dropped + count) // TELL_AGAIN or self.dropped == 0:
            log.warning("events are dropped, %d so far: the event store is too slow, or away", self.dropped + count)
        self.dropped += count

    def _note_answer(self, error: Exception | None) -> None:
        """Say once that the store is away, and once that it is back."""
        if error is not None and not self._is_away:
            log.warning("events can't be written, trying again until they can: %s", error)
        elif error is None and self._is_away:
            log.warning("events are written again; %d were dropped so far", self.dropped)
        self._is_away = error is not None

    def _make_buffer(self) -> _Buffer:
        return _Buffer(self.store, self._drop, self._note_answer)


def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    """The data, or what is kept of it where it is large."""
    short = {key: cut(value, MAX_TEXT) if isinstance(value, str) else value for key, value in data.items()}
    size = len(_encode(short))
    return short if size <= MAX_DATA else {"omitted_bytes": size}


class _Buffer:
    """The events of one loop, and the task that writes them."""

    def __init__(
        self, store: BaseEventStorage, drop: Callable[[int], None], note_answer: Callable[[Exception | None], None]
    ) -> None:
        self._events: deque[TaskEvent] = deque()
        self._store = store
        self._drop = drop
        self._note_answer = note_answer
        self._writer: asyncio.Task[None] | None = None
        self._backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        self._is_stuck = False
        """Whether the last write has failed, or takes long."""
        self._tried = asyncio.Event()

    @property
    def length(self) -> int:
        """How many events wait to be written."""
        return len(self._events)

    def push(self, event: TaskEvent) -> None:
        """Have it written."""
        self._events.append(event)
        if self._writer is None or self._writer.done():
            self._writer = spawn(self._write())

    async def flushed(self) -> None:
        """Wait until all is written, or a write has failed, or the store doesn't answer."""
        await self._wait_while(lambda: self._writer is not None and not self._writer.done())

    async def until_at_most(self, length: int) -> None:
        """Wait until no more events than that wait, or a write has failed, or the store doesn't answer."""
        await self._wait_while(lambda: len(self._events) > length)

    async def _wait_while(self, condition: Callable[[], bool]) -> None:
        try:
            while condition() and not self._is_stuck:
                self._tried.clear()
                async with asyncio.timeout(SILENCE):
                    await self._tried.wait()
        except TimeoutError:
            self._is_stuck = True

    async def end(self) -> None:
        """Write no more; what is left is dropped."""
        if self._writer is not None:
            await cancel_and_wait(self._writer)
        self._tried.set()
        self._drop_rest()

    def abandon(self) -> None:
        """Its loop has ended, and what is left isn't written any more."""
        forget(self._writer)
        self._drop_rest()

    def _drop_rest(self) -> None:
        if self._events:
            self._drop(len(self._events))

    async def _write(self) -> None:
        try:
            while self._events:
                await self._write_batch()
        finally:
            self._tried.set()

    async def _write_batch(self) -> None:
        batch = [self._events.popleft() for _ in range(min(BATCH, len(self._events)))]
        try:
            answers = await apart(self._append, batch)
        except asyncio.CancelledError:
            self._events.extendleft(reversed(batch))
            raise
        failed = [(event, error) for event, error in zip(batch, answers, strict=True) if error is not None]
        left = _to_repeat(failed, len(batch))
        if len(left) < len(failed):
            self._drop(len(failed) - len(left))
            log.error("%d events can't be written", len(failed) - len(left), exc_info=failed[0][1])
        self._is_stuck = bool(left)
        self._note_answer(failed[-1][1] if left else None)
        self._tried.set()
        if left:
            self._events.extendleft(reversed(left))
            await self._backoff.pause()
        else:
            self._backoff.reset()

    async def _append(self, events: Sequence[TaskEvent]) -> Sequence[None]:
        try:
            await within(WRITE_LIMIT, self._store.append(events))
        except TimeoutError:
            raise StoreUnavailable(f"{self._store.location}: no answer within {WRITE_LIMIT:g} s") from None
        return [None] * len(events)


def _to_repeat(failed: Sequence[tuple[TaskEvent, Exception]], tried: int) -> list[TaskEvent]:
    """Those that failed by the store's fault: it is away, or refuses all. One that it refuses of many is to blame."""
    is_away = len(failed) == tried or any(isinstance(error, StoreUnavailable) for _, error in failed)
    return [event for event, error in failed if is_away and _is_the_stores(error)]


def _is_the_stores(error: Exception) -> bool:
    return isinstance(error, StoreError) and not isinstance(error, ValueRefused)


# ── blocking ────────────────────────────────────────────────────────────────


class EventLogger(Blocking[AsyncEventLogger]):
    """Logs events from blocking code: `log` returns at once, `flush` when all is written."""

    def __init__(self, storage: EventStorage, config: EventsConfig | None = None) -> None:
        if not isinstance(storage, EventStorage):
            raise ConfigError(f"storage: expected an EventStorage, got {type(storage).__name__}")
        super().__init__(AsyncEventLogger(storage.aio.store, config))

    flush = blocking(AsyncEventLogger.flush)
    purge = blocking(AsyncEventLogger.purge)

    def configure(
        self,
        *,
        types: Iterable[EventType | str] | None = None,
        level: EventLevel | str | None = None,
        enabled: bool | None = None,
    ) -> None:
        """As `AsyncEventLogger.configure`."""
        self.aio.configure(types=types, level=level, enabled=enabled)

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer was full, or the store refused them."""
        return self.aio.dropped

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event; returns at once. Raises `InvalidTask` for a type that there isn't."""
        event_types(type)
        self.connect()
        fields.setdefault("time", clock.now())
        portal().loop.call_soon_threadsafe(functools.partial(self.aio.log, type, **fields))
