"""Tasks, results and schedules as the scripts keep them, and how they come back: strings of Lua's `struct`."""

from __future__ import annotations

import functools
import math
import struct
from struct import Struct
from typing import Any

import msgspec
from msgspec.structs import replace
from omniq.models.state import TaskState
from omniq.storage.damage import result_of, schedule_of, task_of
from omniq.storage.records import MAX_COUNT, MAX_TIME, ResultRecord, ScheduleRecord, TaskRecord

from omniq_redis.wire import STATES

_decode_parents = msgspec.msgpack.Decoder(tuple[str, ...]).decode

# As in the scripts.
_TASK = Struct(">BbIIIIIBdddddd")
_RESULT = Struct(">IBdddH")
_SCHEDULE = Struct(">BddH")
_NEVER = math.inf
_FIRST = -MAX_TIME
_NO_RECORD = "its record is none of ours"


class TaskRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A task as `tasks.lua` keeps it."""

    id: bytes
    record: bytes
    body: bytes = b""
    damage: str | None = None


class ScheduleRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A schedule as `schedules.lua` keeps it."""

    id: bytes
    record: bytes


def to_text(id_: bytes) -> str:
    """An id as the server has it. Who has put it there may not have written text: it has surrogate escapes then."""
    return id_.decode("utf-8", "surrogateescape")


def to_server(id_: str) -> str | msgspec.Raw:
    """The id as an argument, whatever `to_text` made it of: the scripts know no other bytes than text."""
    if id_.isascii():
        return id_
    raw = id_.encode("utf-8", "surrogateescape")
    return msgspec.Raw(b"\xdb" + len(raw).to_bytes(4) + raw)


def task_record(row: TaskRow) -> TaskRecord:
    """The task that a row is; a damaged one has its `damage`."""
    try:
        record = _sound_task(row)
    except (ValueError, IndexError, struct.error):
        record = _damaged_task(row)
    return record if row.damage is None else replace(record, damage=row.damage)


def _sound_task(row: TaskRow) -> TaskRecord:
    """The task. Raises `ValueError`, `IndexError` or `struct.error` if it is damaged."""
    record = row.record
    state, priority, epoch, attempts, crashes, _, _, cancel, created, due, expires, finished, lease, claimed = (
        _TASK.unpack_from(record)
    )
    # Comparisons that a NaN fails, too.
    counts_fit = state > 0 and -100 <= priority <= 100 and epoch <= MAX_COUNT >= attempts and crashes <= MAX_COUNT
    begun_fits = _FIRST <= created <= MAX_TIME and _FIRST <= due <= MAX_TIME
    ends_fit = expires >= _FIRST and finished >= _FIRST and lease >= _FIRST and claimed >= _FIRST
    if not (counts_fit and begun_fits and ends_fit):
        raise ValueError("a number is out of bounds")
    queue_name, name, worker, schedule_id, depends_on = _texts(record[_TASK.size :])
    return TaskRecord(
        id=row.id.decode(),
        queue_name=queue_name,
        body=row.body,
        name=name,
        state=STATES[state - 1],
        priority=priority,
        created_at=created,
        run_at=due,
        expires_at=None if expires == _NEVER else expires,
        finished_at=None if finished == _NEVER else finished,
        epoch=epoch,
        attempts=attempts,
        crashes=crashes,
        lease_until=None if lease == _NEVER else lease,
        claimed_at=None if claimed == _NEVER else claimed,
        worker=worker,
        cancel_requested=cancel == 1,
        depends_on=depends_on,
        schedule_id=schedule_id,
    )


def _damaged_task(row: TaskRow) -> TaskRecord:
    """What can be told of a task whose row can't be read."""
    nothing = {"queue_name": "", "state": None, "priority": 0, "created_at": 0.0, "run_at": 0.0}
    values = {"id": to_text(row.id), "body": row.body, **nothing, **_numbers(row.record)}
    try:
        texts = _texts(row.record[_TASK.size :])
        values["queue_name"], values["name"], _, values["schedule_id"], values["depends_on"] = texts
    except (ValueError, IndexError):
        values["queue_name"] = _text(row.record, _TASK.size, 2)[0]
    return task_of(values)


def _numbers(record: bytes) -> dict[str, object]:
    """Those in a record, if it is long enough."""
    try:
        found = _TASK.unpack_from(record)
    except struct.error:
        return {}
    state, priority, epoch, attempts, crashes, _, _, cancel, created, due, *times = found
    expires, finished, lease, claimed = (None if time == _NEVER else time for time in times)
    return {
        "state": STATES[state - 1] if 0 < state <= len(STATES) else state,
        "priority": priority,
        "epoch": epoch,
        "attempts": attempts,
        "crashes": crashes,
        "cancel_requested": cancel == 1,
        "created_at": created,
        "run_at": due,
        "expires_at": expires,
        "finished_at": finished,
        "lease_until": lease,
        "claimed_at": claimed,
    }


@functools.lru_cache(maxsize=1024)
def _texts(packed: bytes) -> tuple[str, str, str | None, str | None, tuple[str, ...]]:
    """Queue, function, worker, schedule and parents: the same for most tasks of a batch."""
    queue_name, at = _text(packed, 0, 2)
    schedule_id, at = _text(packed, at, 2)
    parents, at = _text(packed, at, 4)
    name, at = _text(packed, at, 2)
    worker, at = _text(packed, at, 2)
    if at != len(packed):
        raise ValueError("it is longer or shorter than it says")
    depends_on = _decode_parents(parents) if parents else ()
    return queue_name.decode(), name.decode(), worker.decode() or None, schedule_id.decode() or None, depends_on


def _text(packed: bytes, at: int, width: int) -> tuple[bytes, int]:
    """What follows its size, which takes so many bytes; and where it ends."""
    start = at + width
    end = start + int.from_bytes(packed[at:start])
    return packed[start:end], end


def result_record(task_id: str, record: bytes) -> ResultRecord:
    """The result that a record is; a damaged one has its `damage`."""
    try:
        epoch, status, finished_at, ttl, expires_at, size = _RESULT.unpack_from(record)
        schedule_id = record[_RESULT.size : _RESULT.size + size].decode() or None
    except (ValueError, struct.error):
        return ResultRecord(task_id=task_id, epoch=0, status=TaskState.ERROR, body=b"", damage=_NO_RECORD)
    values: dict[str, Any] = {
        "task_id": task_id,
        "epoch": epoch,
        "status": STATES[status - 1] if 0 < status <= len(STATES) else status,
        "body": record[_RESULT.size + size :],
        "ttl": None if ttl == _NEVER else ttl,
        "schedule_id": schedule_id,
        "finished_at": finished_at,
        "expires_at": None if expires_at == _NEVER else expires_at,
    }
    sound = epoch <= MAX_COUNT and 4 < status <= len(STATES) and ttl >= 0 and -MAX_TIME <= finished_at <= MAX_TIME
    return ResultRecord(**values) if sound and expires_at >= -MAX_TIME else result_of(values)


def schedule_record(row: ScheduleRow) -> ScheduleRecord:
    """The schedule that a row is; a damaged one has its `damage`."""
    values: dict[str, object] = {"id": to_text(row.id), "queue_name": "", "body": b"", "next_run": None}
    try:
        paused, next_run, version, size = _SCHEDULE.unpack_from(row.record)
        end = _SCHEDULE.size + size
        values |= {"paused": bool(paused), "next_run": None if next_run == _NEVER else next_run, "version": version}
        values |= {"queue_name": to_text(row.record[_SCHEDULE.size : end]), "body": row.record[end:]}
        values["version"] = int(version)
    except (ValueError, OverflowError, struct.error):
        return replace(schedule_of(values), damage=_NO_RECORD)
    return schedule_of(values)
