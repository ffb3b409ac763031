"""Schedules, in the table `schedule`, and the workers that were seen, in `worker`."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec
from omniq import clock
from omniq.storage.damage import schedule_of, worker_of
from omniq.storage.records import Firing, ScheduleRecord, WorkerRecord

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
# Locked in the order of their ids, so that two schedulers never wait for each other.
_ADVANCE = """
    with firing (id, version, next_run) as (select * from unnest($1::text[], $2::bigint[], $3::float8[])),
    held as (
        select schedule.id from omniq.schedule as schedule
        join firing on firing.id = schedule.id and firing.version = schedule.version
        order by schedule.id for update of schedule)
    update omniq.schedule as schedule set next_run = firing.next_run, version = schedule.version + 1
    from firing, held where schedule.id = firing.id and held.id = firing.id returning schedule.id
"""

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


async def advance(session: Session, firings: Sequence[Firing]) -> set[str]:
    """Move the schedules to their next slots that have these versions; returns which had."""
    ids = [firing.schedule_id for firing in firings]
    versions = [firing.if_version for firing in firings]
    rows = await session.fetch(_ADVANCE, ids, versions, [firing.next_run for firing in firings])
    return {row[0] for row in rows}


async def beat(session: Session, worker: WorkerRecord, *, leaving: bool = False) -> None:
    if leaving:
        await session.fetch(_LEAVE, worker.name)
    else:
        await session.fetch(_BEAT, clock.offset(), worker.name, msgspec.json.encode(worker).decode())


async def workers(session: Session) -> list[WorkerRecord]:
    return [worker_of(*row) for row in await session.fetch(_SEEN)]


async def now(session: Session) -> float:
    return float((await session.fetch(f"select {NOW}", clock.offset()))[0][0])
