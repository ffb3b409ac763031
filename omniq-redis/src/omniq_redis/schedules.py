"""Schedules, in the hash `schedule`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from omniq.storage.records import NewTask, ScheduleRecord

from omniq_redis.connection import Connection
from omniq_redis.rows import ScheduleRow, schedule_record
from omniq_redis.wire import PARCEL, task_kind

_decode_rows = msgspec.msgpack.Decoder(list[ScheduleRow | None]).decode


async def put_schedule(connection: Connection, schedule: ScheduleRecord, if_version: int | None) -> bool:
    """Whether it was written."""
    s = schedule
    args = (s.id, s.queue_name, s.next_run, s.paused, s.version, if_version)
    return await connection.call("put_schedule", args, s.body) == b"1"


async def fetch_schedules(
    connection: Connection, ids: Sequence[str] | None, within: float | None
) -> list[ScheduleRecord]:
    """Those of `ids`, or all; with `within`, only active ones whose slot comes within so many seconds; by id."""
    rows: list[ScheduleRow | None] = []
    if ids is None or within is not None:
        while len(page := await _page(connection, within, len(rows))) == PARCEL:
            rows += page
        rows += page
    else:
        for start in range(0, len(ids), PARCEL):
            rows += _decode_rows(await connection.call("get_schedules", [ids[start : start + PARCEL]]))
    records = [schedule_record(row) for row in rows if row is not None]
    found = {record.id: record for record in records if ids is None or record.id in ids}
    return [found[id_] for id_ in sorted(found)]


async def _page(connection: Connection, within: float | None, offset: int) -> list[ScheduleRow | None]:
    return _decode_rows(await connection.call("get_schedules", [None, within, offset, PARCEL]))


async def delete_schedule(connection: Connection, schedule_id: str) -> bool:
    """Whether it was there."""
    return await connection.call("delete_schedule", [schedule_id]) == b"1"


async def fire(
    connection: Connection, schedule_id: str, if_version: int, next_run: float | None, task: NewTask
) -> bool:
    """Whether this call fired the schedule."""
    args = (schedule_id, if_version, next_run, task.id, task_kind(task), len(task.body))
    return await connection.call("fire", args, task.body) == b"1"
