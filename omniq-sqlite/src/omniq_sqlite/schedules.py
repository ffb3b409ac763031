"""Schedules, in the table `schedule`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from omniq import clock
from omniq.storage.records import NewTask, ScheduleRecord, Version

from omniq_sqlite.adding import add_tasks
from omniq_sqlite.damage import DAMAGE, check_damage, read_schedules
from omniq_sqlite.wire import Flag, Ticks, conditions, encode, fetch_text, maybe_seconds, ticks_of

_INSERT = """
    insert into schedule (id, queue_name, body, next_run, paused, version) values (?, ?, ?, ?, ?, ?)
    on conflict (id) do nothing
"""
_UPDATE = """
    update schedule set queue_name = ?, body = ?, next_run = ?, paused = ?, version = version + 1
    where id = ? and version = ?
"""
_FETCH = f"""
    select json_group_array(json_array(id, queue_name, hex(body), {ticks_of("next_run")}, paused, version))
    from schedule where {{where}}
"""
_DELETE = "delete from schedule where id = ?"
_ADVANCE = "update schedule set next_run = ?, version = version + 1 where id = ? and version = ?"


class _ScheduleRow(Struct, array_like=True, frozen=True):
    """A schedule as `_FETCH` prints it."""

    id: str
    queue_name: str
    body: str
    next_run: Ticks | None
    paused: Flag
    version: Version


_decode_schedules = msgspec.json.Decoder(list[_ScheduleRow]).decode


def put_schedule(connection: sqlite3.Connection, schedule: ScheduleRecord, if_version: int | None) -> bool:
    """Whether it was written."""
    s = schedule
    if if_version is None:
        new = (s.id, s.queue_name, s.body, s.next_run, s.paused, s.version + 1)
        return connection.execute(_INSERT, new).rowcount == 1
    values = (s.queue_name, s.body, s.next_run, s.paused, s.id, if_version)
    return connection.execute(_UPDATE, values).rowcount == 1


def fetch_schedules(
    connection: sqlite3.Connection, ids: Sequence[str] | None, within: float | None
) -> list[ScheduleRecord]:
    """Those of `ids`, or all; with `within`, only active ones whose slot comes within so many seconds; by id."""
    where, values = conditions(
        {
            "id in (select value from json_each(?))": None if ids is None else encode(ids),
            "paused = 0 and next_run <= ?": None if within is None else clock.now() + within,
        }
    )
    return sorted(_fetch(connection, where, values), key=lambda record: record.id)


def _fetch(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[ScheduleRecord]:
    try:
        rows = _decode_schedules(fetch_text(connection, _FETCH.format(where=where), *values))
        return [_record(row) for row in rows]
    except DAMAGE as error:
        check_damage(error)
        return read_schedules(connection, f"select * from schedule where {where}", values)


def delete_schedule(connection: sqlite3.Connection, schedule_id: str) -> bool:
    """Whether it was there."""
    return connection.execute(_DELETE, (schedule_id,)).rowcount == 1


def fire(
    connection: sqlite3.Connection, schedule_id: str, if_version: int, next_run: float | None, task: NewTask
) -> tuple[bool, bool]:
    """Whether this call fired the schedule, and whether its task is due."""
    if connection.execute(_ADVANCE, (next_run, schedule_id, if_version)).rowcount == 0:
        return False, False
    _, any_due = add_tasks(connection, [task])
    return True, any_due


def _record(row: _ScheduleRow) -> ScheduleRecord:
    return ScheduleRecord(
        id=row.id,
        queue_name=row.queue_name,
        body=bytes.fromhex(row.body),
        next_run=maybe_seconds(row.next_run),
        paused=bool(row.paused),
        version=row.version,
    )
