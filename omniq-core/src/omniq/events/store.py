"""The event storage that everybody shares: what users call, on top of any store's contract."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypedDict, TypeVar

from omniq import clock
from omniq.backend.base import BaseBackend, check_backend
from omniq.backend.component import AsyncComponent
from omniq.backoff import repeating
from omniq.errors import ConfigError, InvalidTask
from omniq.ids import check_id, check_limit
from omniq.models.config import EventStorageConfig
from omniq.models.event import TaskEvent
from omniq.models.state import EventType
from omniq.models.task import TaskRef, id_of
from omniq.models.times import Duration, seconds, timestamp
from omniq.plugins.registry import load_class
from omniq.storage.events import BaseEventStorage
from omniq.storage.records import EventFilter

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

    def __init__(self, store: Callable[[C], BaseEventStorage], config: C) -> None:
        super().__init__(store, config)

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
