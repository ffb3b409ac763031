"""What happened, in the table `event`: plain columns, and `data` as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import asyncpg
import msgspec
from omniq.backend.component import Configured, configured_by
from omniq.events.facade import EventStorage
from omniq.events.store import AsyncEventStorage
from omniq.models.event import TaskEvent
from omniq.storage.capabilities import Capability
from omniq.storage.damage import event_of
from omniq.storage.events import BaseEventStorage
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import cursor_at, place_of

from omniq_postgres.config import PostgresEventStorageConfig
from omniq_postgres.connection import PostgresStore
from omniq_postgres.wire import arrays, conditions

_APPEND = """
    insert into omniq.event (time, type, task_id, schedule_id, queue_name, worker, attempt, data)
    select time, type, task_id, schedule_id, queue_name, worker, attempt, data::jsonb
    from unnest($1::float8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::text[])
        with ordinality as event (time, type, task_id, schedule_id, queue_name, worker, attempt, data, place)
    order by place
"""
_QUERY = """
    select id, time, type, task_id, schedule_id, queue_name, worker, attempt, data from omniq.event
    where {where} order by time desc, id desc limit {limit}
"""
_PURGE = """
    with old as (select id from omniq.event where time < $1 order by time limit $2 for update skip locked)
    delete from omniq.event using old where event.id = old.id returning event.id
"""


class PostgresEventStore(PostgresStore, BaseEventStorage):
    """Events in a table that SQL can query."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    async def append(self, events: Sequence[TaskEvent]) -> None:
        columns = arrays(events, "time", "type", "task_id", "schedule_id", "queue_name", "worker", "attempt")
        data = [_json(event.data) if event.data else None for event in events]
        await self._connection.run(lambda session: session.fetch(_APPEND, *columns, data))

    async def query(self, where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> EventPage:
        restrictions, values = conditions(
            {
                "task_id = {}": where.task_id,
                "schedule_id = {}": where.schedule_id,
                "queue_name = {}": where.queue_name,
                "worker = {}": where.worker,
                "type = any({}::text[])": where.types or None,
                "time >= {}": where.since,
                "time < {}": where.until,
            }
        )
        if cursor is not None:
            restrictions += f" and (time, id) < (${len(values) + 1}, ${len(values) + 2})"
            values += place_of(cursor)
        sql = _QUERY.format(where=restrictions, limit=f"${len(values) + 1}")
        rows = await self._connection.run(lambda session: session.fetch(sql, *values, limit + 1))
        page = rows[:limit]
        more = len(rows) > limit
        return EventPage(list(map(_event, page)), cursor_at(page[-1]["time"], page[-1]["id"]) if more else None)

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        return len(await self._connection.run(lambda session: session.fetch(_PURGE, before, limit)))


def _json(data: dict[str, Any]) -> str:
    """The data as JSON; without the character zero, which the server's text can't hold."""
    text = msgspec.json.encode(data).decode()
    return msgspec.json.encode(_without_zeros(data)).decode() if "\\u0000" in text else text


def _without_zeros(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_without_zeros(key): _without_zeros(item) for key, item in value.items()}
    return [_without_zeros(item) for item in value] if isinstance(value, list | tuple) else value


def _event(row: asyncpg.Record) -> TaskEvent:
    """The event that a row is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        values["data"] = msgspec.json.decode(row["data"]) if row["data"] else {}
        return msgspec.convert(values, TaskEvent)
    except (ValueError, RecursionError):
        return event_of(values)


class AsyncPostgresEventStorage(Configured, AsyncEventStorage[PostgresEventStorageConfig]):
    """Events in a PostgreSQL schema. Takes the fields of `PostgresEventStorageConfig`."""

    @configured_by(PostgresEventStorageConfig)
    def __init__(self, config: PostgresEventStorageConfig) -> None:
        super().__init__(PostgresEventStore, config)


class PostgresEventStorage(Configured, EventStorage):
    """`AsyncPostgresEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(PostgresEventStorageConfig)
    def __init__(self, config: PostgresEventStorageConfig) -> None:
        super().__init__(AsyncPostgresEventStorage.from_config(config))
