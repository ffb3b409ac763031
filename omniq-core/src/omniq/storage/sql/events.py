"""What happened, in the table `event`: plain columns, and `data` as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from msgspec.structs import asdict

from omniq.models.event import TaskEvent
from omniq.storage.capabilities import Capability
from omniq.storage.events import BaseEventStorage
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import cursor_at, place_of
from omniq.storage.sql.steps import Given, Steps, conditions, do, kinds, select
from omniq.storage.sql.store import SQLStore, reads, writes
from omniq.storage.sql.tables import EVENTS

_NEW: Final = kinds(
    "time time, type text, task_id text, schedule_id text, queue_name text, worker text, attempt integer, data json"
)
_APPEND = """
    with {given}
    insert into omniq.event (time, type, task_id, schedule_id, queue_name, worker, attempt, data)
    select time, type, task_id, schedule_id, queue_name, worker, attempt, data from given order by place
"""
_TERMS: Final = {
    "task_id": "task_id = :task_id",
    "schedule_id": "schedule_id = :schedule_id",
    "queue_name": "queue_name = :queue_name",
    "worker": "worker = :worker",
    "types": "type {any[types]}",
    "since": "time >= :since",
    "until": "time < :until",
    "id": "(time, id) < (:time, :id)",
}
_PAGE = "select {{columns}} from omniq.event where {where} order by time desc, id desc limit :limit"
_PURGE = """
    delete from omniq.event where id in (
        select id from omniq.event where time < :before order by time limit :limit {skip_locked})
"""


def append(events: Sequence[TaskEvent]) -> Steps[None]:
    """As `BaseEventStorage.append`."""
    yield from do(_APPEND, Given.of(_NEW, events, data=[event.data or None for event in events]))


def query(where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> Steps[EventPage]:
    """As `BaseEventStorage.query`."""
    time, id_ = (None, None) if cursor is None else place_of(cursor)
    values = asdict(where) | {"types": where.types or None, "time": time, "id": id_}
    text = _PAGE.format(where=conditions(_TERMS, values))
    page = yield from select(EVENTS, text, limit=limit, place="time", **values)
    return EventPage(page.records, None if page.key is None else cursor_at(page.place or 0.0, page.key))


def purge(*, before: float, limit: int = 1000) -> Steps[int]:
    """As `BaseEventStorage.purge`."""
    return (yield from do(_PURGE, before=before, limit=limit))


class SQLEventStore(SQLStore, BaseEventStorage):
    """Events in a table that SQL can query."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    append = writes(append)
    query = reads(query)
    purge = writes(purge)
