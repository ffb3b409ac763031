"""Results and events on SQL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Final

from msgspec.structs import asdict

from omniq.models.event import TaskEvent
from omniq.storage.base import BaseEventStorage, BaseResultStorage, Capability
from omniq.storage.records import MAX_COUNT, EventFilter, EventPage, NewBody, ResultRecord
from omniq.storage.rules import cursor_at, place_of
from omniq.storage.sql import (
    EVENTS,
    RESULTS,
    Given,
    SQLStore,
    Statement,
    Steps,
    Table,
    conditions,
    do,
    get,
    kinds,
    reads,
    select,
    write,
    writes,
)
from omniq.storage.wakeups import News

# ── results ─────────────────────────────────────────────────────────────────


NEW: Final = kinds("task_id text, epoch integer, status text, schedule_id text, ttl real, body bytes")

_GIVES_WAY = f"""
    (result.epoch < {{0}}.epoch or result.epoch > {MAX_COUNT}
        or (result.epoch = {{0}}.epoch and ({{0}}.status <> 'running' or result.status = 'running')))
"""
"""As `rules.gives_way` decides."""
IF_IT_GIVES_WAY: Final = f"""
    on conflict (task_id) do update set epoch = excluded.epoch, status = excluded.status,
        schedule_id = excluded.schedule_id, finished_at = excluded.finished_at, expires_at = excluded.expires_at,
        body = excluded.body
    where {_GIVES_WAY.format("excluded")}
"""
PUT: Final = f"""
    with {{given}}, {{clock}}
    insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
    select task_id, epoch, status, schedule_id, now, now + ttl, body from given cross join clock where true
    {IF_IT_GIVES_WAY}
"""
_COMPARED: Final = kinds("task_id text, epoch integer, status text")
_REFUSED = f"""
    with {{given}}
    select given.task_id from given join omniq.result as result on result.task_id = given.task_id
    where not {_GIVES_WAY.format("given")}
"""
_FIND = """
    select {{columns}} from omniq.result
    where schedule_id = :schedule_id and (expires_at is null or expires_at > {{now}})
    order by finished_at {order}, task_id {order} limit :limit
"""
_PURGE_RESULTS = """
    delete from omniq.result where task_id in (
        select task_id from omniq.result where expires_at <= {now} order by expires_at limit :limit {skip_locked})
"""
_REWRITTEN: Final = kinds("task_id text, old bytes, body bytes")
_REWRITE = """
    with {{given}}
    update omniq.{table} set body = given.body from given
    where {table}.{key} = given.task_id and {table}.body = given.old
"""
_HAVE_ANOTHER = """
    with {{given}}
    select given.task_id from given left join omniq.{table} as {table}
        on {table}.{key} = given.task_id and {table}.body = given.old
    where {table}.{key} is null
"""


def _refused(records: Sequence[ResultRecord]) -> Statement:
    return Statement(_REFUSED, {}, Given.of(_COMPARED, records))


def put(records: Sequence[ResultRecord]) -> Steps[list[bool]]:
    """As `BaseResultStorage.put`."""
    refused = partial(_refused, records)
    stored = yield from write("result.task_id", PUT, Given.of(NEW, records), unchanged=refused)
    return [record.task_id in stored for record in records]


def find(schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> Steps[list[ResultRecord]]:
    """As `BaseResultStorage.find`."""
    text = _FIND.format(order="desc" if newest_first else "asc")
    return (yield from select(RESULTS, text, limit=limit, schedule_id=schedule_id)).records


def purge_results(*, limit: int = 1000) -> Steps[int]:
    """As `BaseResultStorage.purge`."""
    return (yield from do(_PURGE_RESULTS, limit=limit))


def replace_bodies(table: Table[Any], bodies: Sequence[NewBody]) -> Steps[list[bool]]:
    """Replace the bodies of a table's rows that have the old ones; returns whether each was replaced."""
    names = {"table": table.name, "key": table.key}
    given = Given.of(_REWRITTEN, sorted(bodies, key=attrgetter("task_id")))  # who locks in one order locks nobody out
    others = partial(Statement, _HAVE_ANOTHER.format(**names), {}, given)
    replaced = yield from write("given.task_id", _REWRITE.format(**names), given, unchanged=others)
    return [new.task_id in replaced for new in bodies]


class SQLResultStore(SQLStore, BaseResultStorage):
    """Results in a table."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    get = reads(partial(get, RESULTS))
    find = reads(find)
    purge = writes(purge_results)
    replace_bodies = writes(partial(replace_bodies, RESULTS))

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        stored = await self._write(partial(put, records))
        self._tell(News(ended=[record.task_id for record, done in zip(records, stored, strict=True) if done]))
        return stored


# ── events ──────────────────────────────────────────────────────────────────


_NEW: Final = kinds(
    "id text, time time, type text, task_id text, name text, schedule_id text, queue_name text, worker text,"
    " attempt integer, data json"
)
_APPEND = """
    with {given}
    insert into omniq.event (id, time, type, task_id, name, schedule_id, queue_name, worker, attempt, data)
    select id, time, type, task_id, name, schedule_id, queue_name, worker, attempt, data from given where true
    on conflict do nothing
"""
_TERMS: Final = {
    "task_id": "task_id = :task_id",
    "name": "name = :name",
    "schedule_id": "schedule_id = :schedule_id",
    "queue_name": "queue_name = :queue_name",
    "worker": "worker = :worker",
    "types": "type {any[types]}",
    "since": "time >= :since",
    "until": "time < :until",
    "before": "(time, id) < (:before, :id)",
    "after": "(time, id) > (:after, :id)",
}
_PAGE = "select {{columns}} from omniq.event where {where} order by time {order}, id {order} limit :limit"
_PURGE_EVENTS = """
    delete from omniq.event where id in (
        select id from omniq.event where time < :before order by time limit :limit {skip_locked})
"""


def append(events: Sequence[TaskEvent]) -> Steps[None]:
    """As `BaseEventStorage.append`."""
    yield from do(_APPEND, Given.of(_NEW, events, data=[event.data or None for event in events]))


def query(
    where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
) -> Steps[EventPage]:
    """As `BaseEventStorage.query`."""
    values = asdict(where) | {"types": where.types or None}
    if cursor is not None:
        values["after" if oldest_first else "before"], values["id"] = place_of(cursor)
    text = _PAGE.format(where=conditions(_TERMS, values), order="asc" if oldest_first else "desc")
    page = yield from select(EVENTS, text, limit=limit, place="time", **values)
    return EventPage(page.records, None if page.key is None else cursor_at(page.place or 0.0, page.key))


def purge_events(*, before: float, limit: int = 1000) -> Steps[int]:
    """As `BaseEventStorage.purge`."""
    return (yield from do(_PURGE_EVENTS, before=before, limit=limit))


class SQLEventStore(SQLStore, BaseEventStorage):
    """Events in a table that SQL can query."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    append = writes(append)
    query = reads(query)
    purge = writes(purge_events)
