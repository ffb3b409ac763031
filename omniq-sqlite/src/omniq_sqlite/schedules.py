"""Schedules and workers, in the tables `schedule` and `worker`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from omniq import clock
from omniq.storage.damage import schedule_of, worker_of
from omniq.storage.records import Firing, ScheduleRecord, WorkerRecord

from omniq_sqlite.wire import Table, conditions, encode, fetch_rows, fetch_texts, maybe_ticks, time_at

SCHEDULES: Final = Table[str, ScheduleRecord]("schedule", "id", ScheduleRecord, schedule_of, {})
_INSERT = """
    insert into schedule (id, queue_name, body, next_run, paused, version) values (?, ?, ?, ?, ?, ?)
    on conflict (id) do nothing
"""
_UPDATE = """
    update schedule set queue_name = ?, body = ?, next_run = ?, paused = ?, version = version + 1
    where id = ? and version = ?
"""
_FIND = "select id from schedule where {where} order by id"
_DELETE = "delete from schedule where id = ?"
_UNFIRED = "select key from json_each(?) cross join schedule on schedule.id = value ->> 0 where version = value ->> 1"
_ADVANCE = f"""
    with firing as materialized (select value from json_each(?))
    update schedule set next_run = {time_at(2)}, version = version + 1 from firing where schedule.id = value ->> 0
"""
_BEAT = "insert or replace into worker (name, last_seen, report) values (?, ?, ?)"
_LEAVE = "delete from worker where name = ?"
_FORGET = "delete from worker where last_seen <= ?"
_SEEN = "select name, report, last_seen from worker order by name"


def put_schedule(connection: sqlite3.Connection, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
    """As `BaseTaskQueue.put_schedule`."""
    s = schedule
    if if_version is None:
        new = (s.id, s.queue_name, s.body, s.next_run, s.paused, s.version + 1)
        return connection.execute(_INSERT, new).rowcount == 1
    values = (s.queue_name, s.body, s.next_run, s.paused, s.id, if_version)
    return connection.execute(_UPDATE, values).rowcount == 1


def fetch_schedules(
    connection: sqlite3.Connection, ids: Sequence[str] | None = None, *, within: float | None = None
) -> list[ScheduleRecord]:
    """As `BaseTaskQueue.schedules`."""
    where, values = conditions(
        {
            "id in (select value from json_each(?))": None if ids is None else encode(ids),
            "paused = 0 and next_run <= ?": None if within is None else clock.now() + within,
        }
    )
    found = fetch_texts(connection, _FIND.format(where=where), *values)
    return [schedule for schedule in SCHEDULES.fetch(connection, found) if schedule is not None]


def delete_schedule(connection: sqlite3.Connection, schedule_id: str) -> bool:
    """As `BaseTaskQueue.delete_schedule`."""
    return connection.execute(_DELETE, (schedule_id,)).rowcount == 1


def advance_schedules(connection: sqlite3.Connection, firings: Sequence[Firing]) -> list[bool]:
    """Move the schedules to their next slots that have these versions; returns which had."""
    slots = [(firing.schedule_id, firing.if_version, maybe_ticks(firing.next_run)) for firing in firings]
    unfired = {number for (number,) in fetch_rows(connection, 1, _UNFIRED, encode(slots))}
    connection.execute(_ADVANCE, (encode([slots[number] for number in unfired]),))
    return [number in unfired for number in range(len(slots))]


def beat(connection: sqlite3.Connection, worker: WorkerRecord, *, leaving: bool = False) -> None:
    """As `BaseTaskQueue.beat`."""
    if leaving:
        connection.execute(_LEAVE, (worker.name,))
    else:
        connection.execute(_BEAT, (worker.name, clock.now(), encode(worker)))


def fetch_workers(connection: sqlite3.Connection) -> list[WorkerRecord]:
    """As `BaseTaskQueue.workers`."""
    return [worker_of(*row) for row in connection.execute(_SEEN).fetchall()]


def forget_workers(connection: sqlite3.Connection, older_than: float) -> None:
    """Delete those that weren't seen for so many seconds."""
    connection.execute(_FORGET, (clock.now() - older_than,))
