"""Schedules, in the table `schedule`, and the workers that were seen, in `worker`."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec
from omniq import clock
from omniq.storage.damage import schedule_of, worker_of
from omniq.storage.records import ScheduleRecord, WorkerRecord

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
_FIND = """
    select id, queue_name, body, next_run, paused, version from omniq.schedule
    where {where} and ($1::text[] is null or id = any($1)) order by id
"""
_ALL = _FIND.format(where="true")
_DUE = _FIND.format(where=f"not paused and next_run <= {NOW.replace('$1', '$2')}")
_DELETE = "delete from omniq.schedule where id = $1 returning true"
_ADVANCE = (
    "update omniq.schedule set next_run = $3, version = version + 1 where id = $1 and version = $2 returning true"
)

_BEAT = f"""
    insert into omniq.worker (name, last_seen, report) values ($2, {NOW}, $3::text::jsonb)
    on conflict (name) do update set last_seen = excluded.last_seen, report = excluded.report
"""
_LEAVE = "delete from omniq.worker where name = $1"
_SEEN = "select name, report::text, last_seen from omniq.worker order by name"


async def put_schedule(session: Session, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
    sql, version = (_INSERT, schedule.version) if if_version is None else (_UPDATE, if_version)
    s = schedule
    return bool(await session.fetch(sql, s.id, s.queue_name, s.body, s.next_run, s.paused, version))


async def schedules(
    session: Session, ids: Sequence[str] | None = None, *, within: float | None = None
) -> list[ScheduleRecord]:
    if within is None:
        rows = await session.fetch(_ALL, ids)
    else:
        rows = await session.fetch(_DUE, ids, clock.offset() + within)
    return [_record(row) for row in rows]


def _record(row: asyncpg.Record) -> ScheduleRecord:
    """The schedule that a row is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        return msgspec.convert(values, ScheduleRecord)
    except ValueError:
        return schedule_of(values)


async def delete_schedule(session: Session, schedule_id: str) -> bool:
    return bool(await session.fetch(_DELETE, schedule_id))


async def advance(session: Session, schedule_id: str, if_version: int, next_run: float | None) -> bool:
    """Move the schedule to its next slot if it has this version; whether it had."""
    return bool(await session.fetch(_ADVANCE, schedule_id, if_version, next_run))


async def beat(session: Session, worker: WorkerRecord, *, leaving: bool = False) -> None:
    if leaving:
        await session.fetch(_LEAVE, worker.name)
    else:
        await session.fetch(_BEAT, clock.offset(), worker.name, msgspec.json.encode(worker).decode())


async def workers(session: Session) -> list[WorkerRecord]:
    return [worker_of(*row) for row in await session.fetch(_SEEN)]


async def now(session: Session) -> float:
    return float((await session.fetch(f"select {NOW}", clock.offset()))[0][0])
