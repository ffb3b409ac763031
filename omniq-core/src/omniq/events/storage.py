"""Where events are kept, and how they are asked for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast

from omniq import clock
from omniq.backend import AsyncComponent, BaseBackend, BlockingChosen, Chosen, check_backend
from omniq.batching import repeating
from omniq.clock import Duration, seconds, timestamp
from omniq.errors import ConfigError, InvalidTask
from omniq.events.streams import OVERLAP, POLL_INTERVAL, AsyncEventStream, EventStream, Follower, Reader, check_cursor
from omniq.models.config import BreakerConfig, EventStorageConfig
from omniq.models.event import EventType, TaskEvent
from omniq.models.task import TaskRef, check_flags, check_id, check_limit, id_of
from omniq.plugins.registry import load_class
from omniq.storage.base import BaseEventStorage
from omniq.storage.records import EventFilter, EventPage
from omniq.sync import blocking
from omniq.texts import did_you_mean

C = TypeVar("C", bound=EventStorageConfig)


class EventConditions(TypedDict, total=False):
    """Which events are meant; conditions that are given must all hold."""

    task_id: TaskRef | None
    name: str | None
    """Those of tasks of this function, as `Task.func` says it in lists."""
    schedule_id: str | None
    type: EventType | str | Sequence[EventType | str] | None
    """One type, or several, in any case."""
    queue_name: str | None
    worker: str | None
    """Those that this worker saw."""
    since: dt.datetime | None
    """From this (aware) time on."""
    until: dt.datetime | None
    """Before this (aware) time."""


def event_filter(**conditions: Unpack[EventConditions]) -> EventFilter:
    """The conditions as a store takes them. Raises `InvalidTask` naming the one that can't be."""
    given = cast("dict[str, Any]", conditions)
    unknown = next((name for name in given if name not in EventConditions.__annotations__), None)
    if unknown is not None:
        raise InvalidTask(f"{unknown}: no such condition{did_you_mean(unknown, EventConditions.__annotations__)}")
    names = {name: given.get(name) for name in ("name", "schedule_id", "queue_name", "worker")}
    task_id, types = given.get("task_id"), given.get("type")
    if types is not None and not event_types(types):
        raise InvalidTask(f"type: expected one type of events, or several, got {types!r:.80}")
    return EventFilter(
        task_id=None if task_id is None else id_of(task_id),
        **{name: None if value is None else check_id(value, name) for name, value in names.items()},
        types=event_types(types),
        since=timestamp("since", given.get("since")),
        until=timestamp("until", given.get("until")),
    )


def event_types(type: object) -> tuple[EventType, ...]:
    """One type or several, by name in any case; none for None. Raises `InvalidTask`, with the one that was meant."""
    if type is None:
        return ()
    names = [type] if isinstance(type, str) or not isinstance(type, Sequence) else type
    return tuple(map(_event_type, names))


def _event_type(name: object) -> EventType:
    try:
        return EventType(name)  # type: ignore[arg-type]  # anything may be given
    except ValueError:
        hint = did_you_mean(str(name), EventType.__members__) or f"; expected one of {', '.join(EventType)}"
        raise InvalidTask(f"type: {name!r:.80} is no type of events{hint}") from None


async def _nothing() -> None:
    """What there is to do before events are read, if nothing else is said."""


class AsyncEventStorage(AsyncComponent[C, BaseEventStorage], Chosen, Generic[C]):
    """An event storage on a store."""

    kind, contract = "event_store", BaseEventStorage

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

    async def list(
        self,
        *,
        oldest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        **conditions: Unpack[EventConditions],
    ) -> list[TaskEvent]:
        """A page of up to `limit` (1 to 10,000) events that match, the newest first, or `oldest_first`.

        `cursor` is that of the last event of the page before, or of any event; with another order it leads back.
        Raises `InvalidTask` for what can't be an id, a limit, a type or a cursor.
        """
        check_flags(oldest_first=oldest_first)
        where = event_filter(**conditions)
        if cursor is not None:
            check_cursor(cursor, "cursor")
        return (await self.page(where, oldest_first=oldest_first, limit=check_limit(limit), cursor=cursor)).events

    @repeating
    async def page(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        """As `BaseEventStorage.query`."""
        return await (await self.ready()).query(where, oldest_first=oldest_first, limit=limit, cursor=cursor)

    def iterate(
        self,
        *,
        oldest_first: bool = True,
        after: str | None = None,
        prepare: Callable[[], Awaitable[None]] = _nothing,
        **conditions: Unpack[EventConditions],
    ) -> AsyncEventStream:
        """All events that match, page by page; those behind the cursor `after`, if it is given.

        `prepare` is awaited before the first page. Raises as `list` does.
        """
        check_flags(oldest_first=oldest_first)
        reader = Reader(self, event_filter(**conditions), oldest_first=oldest_first, after=after)
        return AsyncEventStream(reader.run(prepare), lambda: reader.cursor)

    def follow(
        self,
        *,
        after: str | None = None,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
        prepare: Callable[[], Awaitable[None]] = _nothing,
        **conditions: Unpack[EventConditions],
    ) -> AsyncEventStream:
        """Events that match as they are stored: from `since` on, else from now; or behind the cursor `after`.

        Each is given at least once: after a cursor some may come again, from `overlap` before it at most. The store is
        asked every `poll_interval`. An event that is stored up to `overlap` after it happened isn't missed; it comes
        late then. It has no end, survives a store that is away, unless it was from the start, and
        raises `Closed` when this storage is closed.
        """
        where = event_filter(**conditions)
        follower = Follower(self, where, after=after, poll_interval=poll_interval, overlap=overlap)
        return AsyncEventStream(follower.run(prepare), follower.cursor)

    async def purge(self, older_than: Duration) -> int:
        """Delete events from more than `older_than` ago; returns how many. Raises `InvalidTask`."""
        age = seconds("older_than", older_than)
        if age is None:  # where it says how long events are kept, that means without end
            raise InvalidTask("older_than: expected seconds or a timedelta, got None")
        deleted, before = 0, clock.now() - age
        while (count := await (await self.ready()).purge(before=before)) > 0:
            deleted += count
        return deleted


# ── blocking ────────────────────────────────────────────────────────────────


class EventStorage(BlockingChosen[AsyncEventStorage[Any]]):
    """An event storage whose methods block; `aio` is its async core."""

    kind = "event_store"

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> EventStorage:
        """A backend's event storage. Raises `ConfigError` if it keeps no events."""
        return EventStorage(AsyncEventStorage.from_backend(backend, **overrides))

    list = blocking(AsyncEventStorage.list)
    page = blocking(AsyncEventStorage.page)
    purge = blocking(AsyncEventStorage.purge)

    def iterate(
        self, *, oldest_first: bool = True, after: str | None = None, **conditions: Unpack[EventConditions]
    ) -> EventStream:
        """As `AsyncEventStorage.iterate`, as a plain iterator."""
        return EventStream(self.aio.iterate(oldest_first=oldest_first, after=after, **conditions), self._call)

    def follow(
        self,
        *,
        after: str | None = None,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
        **conditions: Unpack[EventConditions],
    ) -> EventStream:
        """As `AsyncEventStorage.follow`, as a plain iterator."""
        stream = self.aio.follow(after=after, poll_interval=poll_interval, overlap=overlap, **conditions)
        return EventStream(stream, self._call)
