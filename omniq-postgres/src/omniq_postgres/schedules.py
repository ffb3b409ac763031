"""Schedules, in the table `schedule`."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec
from omniq import clock
from omniq.storage.damage import schedule_of
from omniq.storage.records import NewTask, ScheduleRecord

from omniq_postgres.adding import add_tasks
from omniq_postgres.connection import Session
from omniq_postgres.wire import NOW

_INSERT = """
    insert into omniq.schedule (id, queue_name, body, next_run, paused, version)
    values ($1, $2, $3, $4, $5, $6::bigint + 1)
    on conflict (id) do nothing returning true
"""
_UPDATE = """
    update omniq.schedule set queue_name = $2, body = $3, next_run = $4, paused = $5, version = version + 1
    where id = $1 and version = $6 returning true
"""
_COLUMNS = "id, queue_name, body, next_run, paused, version"
_ALL = f"""
    select {_COLUMNS} from omniq.schedule where $1::text[] is null or id = any($1) order by id
"""
_DUE = f"""
    select {_COLUMNS} from omniq.schedule
    where not paused and next_run <= {NOW} and ($2::text[] is null or id = any($2)) order by id
"""
_DELETE = "delete from omniq.schedule where id = $1 returning true"
_ADVANCE = (
    "update omniq.schedule set next_run = $3, version = version + 1 where id = $1 and version = $2 returning true"
)


async def put_schedule(session: Session, schedule: ScheduleRecord, if_version: int | None) -> bool:
    """Whether it was written."""
    sql, version = (_INSERT, schedule.version) if if_version is None else (_UPDATE, if_version)
    s = schedule
    return bool(await session.fetch(sql, s.id, s.queue_name, s.body, s.next_run, s.paused, version))


async def fetch_schedules(session: Session, ids: Sequence[str] | None, within: float | None) -> list[ScheduleRecord]:
    """Those of `ids`, or all; with `within`, only active ones whose slot comes within so many seconds; by id."""
    if within is None:
        rows = await session.fetch(_ALL, ids)
    else:
        rows = await session.fetch(_DUE, clock.offset() + within, ids)
    return [_record(row) for row in rows]


def _record(row: asyncpg.Record) -> ScheduleRecord:
    """The schedule that a row is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        return msgspec.convert(values, ScheduleRecord)
    except ValueError:
        return schedule_of(values)


async def delete_schedule(session: Session, schedule_id: str) -> bool:
    """Whether it was there."""
    return bool(await session.fetch(_DELETE, schedule_id))


async def fire(session: Session, schedule_id: str, if_version: int, next_run: float | None, task: NewTask) -> bool:
    """Whether this call fired the schedule."""
    async with session.connection.transaction():
        fired = bool(await session.fetch(_ADVANCE, schedule_id, if_version, next_run))
        if fired:
            await add_tasks(session, [task])
        return fired
