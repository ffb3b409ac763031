"""What happened, in the table `event`: plain columns, and `data` as JSON."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from omniq.backend.component import Configured, configured_by
from omniq.events.facade import EventStorage
from omniq.events.store import AsyncEventStorage
from omniq.models.event import TaskEvent
from omniq.models.state import EventType
from omniq.storage.capabilities import Capability
from omniq.storage.events import BaseEventStorage

from omniq_sqlite.config import SQLiteEventStorageConfig
from omniq_sqlite.connection import SQLiteStore
from omniq_sqlite.damage import DAMAGE, check_damage, read_events
from omniq_sqlite.wire import Ticks, conditions, encode, fetch_text, ticks_of, time_at, to_seconds, to_ticks

_APPEND = f"""
    insert into event (time, type, task_id, schedule_id, queue_name, worker, attempt, data)
    select {time_at(0)}, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    from json_each(?) order by key
"""
_QUERY = f"""
    select json_group_array(json_array({ticks_of("time")}, type, task_id, schedule_id, queue_name, worker, attempt,
        json(data)))
    from ({{select}})
"""
_COLUMNS = "time, type, task_id, schedule_id, queue_name, worker, attempt, data"
_SELECT = f"select {_COLUMNS} from event where {{where}} order by time desc, id desc limit ?"
_PURGE = "delete from event where id in (select id from event where time < ? order by time limit ?)"


class _EventRow(Struct, array_like=True, frozen=True):
    """An event as JSON: its time in ticks."""

    time: Ticks
    type: EventType
    task_id: str | None
    schedule_id: str | None
    queue_name: str | None
    worker: str | None
    attempt: int | None
    data: dict[str, Any] | None


_decode_events = msgspec.json.Decoder(list[_EventRow]).decode


class SQLiteEventStore(SQLiteStore, BaseEventStorage):
    """Events in a file that SQL can query."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    async def append(self, events: Sequence[TaskEvent]) -> None:
        if events:
            rows = encode([_row(event) for event in events])
            await self._connection.write(lambda connection: connection.execute(_APPEND, (rows,)))

    async def query(
        self,
        *,
        task_id: str | None = None,
        schedule_id: str | None = None,
        types: Sequence[EventType] = (),
        since: float | None = None,
        limit: int = 100,
    ) -> list[TaskEvent]:
        where, values = conditions(
            {
                "task_id = ?": task_id,
                "schedule_id = ?": schedule_id,
                "time >= ?": since,
                "type in (select value from json_each(?))": encode(types) if types else None,
            }
        )

        def job(connection: sqlite3.Connection) -> list[TaskEvent]:
            return _fetch(connection, _SELECT.format(where=where), (*values, limit))[::-1]

        return await self._connection.read(job)

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        return await self._connection.write(lambda connection: connection.execute(_PURGE, (before, limit)).rowcount)


def _fetch(connection: sqlite3.Connection, select: str, values: Sequence[object]) -> list[TaskEvent]:
    """The events that are selected; damaged ones with their `damage`."""
    try:
        return [_event(row) for row in _decode_events(fetch_text(connection, _QUERY.format(select=select), *values))]
    except DAMAGE as error:
        check_damage(error)
        return read_events(connection, select, values)


def _row(event: TaskEvent) -> tuple[object, ...]:
    return (
        to_ticks(event.time),
        event.type,
        event.task_id,
        event.schedule_id,
        event.queue_name,
        event.worker,
        event.attempt,
        event.data or None,
    )


def _event(row: _EventRow) -> TaskEvent:
    return TaskEvent(
        type=row.type,
        time=to_seconds(row.time),
        task_id=row.task_id,
        schedule_id=row.schedule_id,
        queue_name=row.queue_name,
        worker=row.worker,
        attempt=row.attempt,
        data=row.data or {},
    )


class AsyncSQLiteEventStorage(Configured, AsyncEventStorage[SQLiteEventStorageConfig]):
    """Events in a SQLite file. Takes the fields of `SQLiteEventStorageConfig`."""

    @configured_by(SQLiteEventStorageConfig)
    def __init__(self, config: SQLiteEventStorageConfig) -> None:
        super().__init__(SQLiteEventStore, config)


class SQLiteEventStorage(Configured, EventStorage):
    """`AsyncSQLiteEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(SQLiteEventStorageConfig)
    def __init__(self, config: SQLiteEventStorageConfig) -> None:
        super().__init__(AsyncSQLiteEventStorage.from_config(config))
