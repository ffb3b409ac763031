"""Schedules and workers, in the tables `schedule` and `worker`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from omniq import clock
from omniq.storage.damage import schedule_of, worker_of
from omniq.storage.records import ScheduleRecord, WorkerRecord

from omniq_sqlite.wire import Table, conditions, encode, fetch_texts

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
_ADVANCE = "update schedule set next_run = ?, version = version + 1 where id = ? and version = ?"
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


def advance_schedule(connection: sqlite3.Connection, schedule_id: str, if_version: int, next_run: float | None) -> bool:
    """Whether it had that version, and was moved to `next_run`."""
    return connection.execute(_ADVANCE, (next_run, schedule_id, if_version)).rowcount == 1


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
