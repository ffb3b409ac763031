"""What happened, in the table `event`: plain columns, and `data` as JSON."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import ClassVar, Final

from omniq.backend.component import Configured, configured_by
from omniq.events.facade import EventStorage
from omniq.events.store import AsyncEventStorage
from omniq.models.event import TaskEvent
from omniq.storage.capabilities import Capability
from omniq.storage.damage import event_of
from omniq.storage.events import BaseEventStorage
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import cursor_at, place_of

from omniq_sqlite.config import SQLiteEventStorageConfig
from omniq_sqlite.connection import SQLiteStore, reads, writes
from omniq_sqlite.wire import TICKS, Table, conditions, encode, fetch_rows, ticks_of, time_at, to_ticks

EVENTS: Final = Table[int, TaskEvent]("event", "id", TaskEvent, event_of, {})
_APPEND = f"""
    insert into event (time, type, task_id, schedule_id, queue_name, worker, attempt, data)
    select {time_at(0)}, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    from json_each(?) order by key
"""
_PAGE = f"""
    select id, {ticks_of("min(time, 1e12)")} from event where {{where}} order by time desc, id desc limit ?
"""
_PURGE = "delete from event where id in (select id from event where time < ? order by time limit ?)"


def append_events(connection: sqlite3.Connection, events: Sequence[TaskEvent]) -> None:
    """As `BaseEventStorage.append`."""
    connection.execute(_APPEND, [encode([_row(event) for event in events])])


def _row(event: TaskEvent) -> tuple[object, ...]:
    e = event
    data = e.data or None
    return to_ticks(e.time), e.type, e.task_id, e.schedule_id, e.queue_name, e.worker, e.attempt, data


def query_events(
    connection: sqlite3.Connection, where: EventFilter, *, limit: int = 100, cursor: str | None = None
) -> EventPage:
    """As `BaseEventStorage.query`."""
    restrictions, values = conditions(
        {
            "task_id = ?": where.task_id,
            "schedule_id = ?": where.schedule_id,
            "queue_name = ?": where.queue_name,
            "worker = ?": where.worker,
            "type in (select value from json_each(?))": encode(where.types) if where.types else None,
            "time >= ?": where.since,
            "time < ?": where.until,
        }
    )
    if cursor is not None:
        restrictions += " and (time, id) < (?, ?)"
        values += place_of(cursor)
    found = fetch_rows(connection, 2, _PAGE.format(where=restrictions), *values, limit + 1)
    page = [id_ for id_, _ in found[:limit]]
    cursor = cursor_at(found[limit - 1][1] / TICKS, page[-1]) if len(found) > limit else None
    return EventPage([event for event in EVENTS.fetch(connection, page) if event is not None], cursor)


def purge_events(connection: sqlite3.Connection, *, before: float, limit: int = 1000) -> int:
    """As `BaseEventStorage.purge`."""
    return connection.execute(_PURGE, (before, limit)).rowcount


class SQLiteEventStore(SQLiteStore, BaseEventStorage):
    """Events in a file that SQL can query."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    append = writes(append_events)
    query = reads(query_events)
    purge = writes(purge_events)


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
