"""Tasks, results and schedules as the scripts keep them, and how they come back: strings of Lua's `struct`.

Each begins with numbers, and goes on with texts behind their sizes. What isn't a text stays bytes, and what isn't there
is left out: both make a record damaged.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace
from omniq.models.state import TERMINAL
from omniq.storage.damage import record_of
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord

from omniq_redis.wire import STATES

_NEVER = math.inf
_MAY_NEVER_BE = ("expires_at", "finished_at", "lease_until", "claimed_at", "ttl", "next_run")
_STATES = dict(enumerate(STATES, 1))
_ENDS = {code: state for code, state in _STATES.items() if state in TERMINAL}
_decode_parents = msgspec.msgpack.Decoder(tuple[str, ...]).decode


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


class Numbers:
    """What a record begins with: the layout, as in the scripts, and the names of the numbers."""

    def __init__(self, layout: str, *names: str) -> None:
        packed = struct.Struct(layout)
        self.size = packed.size
        self._unpack = packed.unpack_from
        self._names = names
        self._times = [name for name in names if name in _MAY_NEVER_BE]

    def of(self, record: bytes) -> dict[str, Any]:
        """The numbers by their names, None for a time that isn't; nothing of a record that is too short."""
        if len(record) < self.size:
            return {}
        numbers = dict(zip(self._names, self._unpack(record), strict=True))
        for name in self._times:
            if numbers[name] == _NEVER:
                numbers[name] = None
        return numbers


_TASK = Numbers(
    ">BbIII8x?dddddd",
    *("state", "priority", "epoch", "attempts", "crashes", "cancel_requested"),
    *("created_at", "run_at", "expires_at", "finished_at", "lease_until", "claimed_at"),
)
_RESULT = Numbers(">IBddd", "epoch", "status", "finished_at", "ttl", "expires_at")
_SCHEDULE = Numbers(">?dd", "paused", "next_run", "version")


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
    values = _TASK.of(row.record)
    values["id"], values["body"] = _text(row.id), row.body
    values["state"] = _STATES.get(values.get("state", 0))
    texts = row.record[_TASK.size :]
    try:
        values |= _task_texts(texts)
    except ValueError:
        values["queue_name"] = _sized(texts, 0, 2)[0]
    record = record_of(TaskRecord, values)
    return record if row.damage is None else replace(record, damage=row.damage)


@functools.lru_cache(maxsize=1024)
def _task_texts(packed: bytes) -> Mapping[str, object]:
    """Those of a task, the same for most of a batch. Raises `ValueError` if they aren't all there, or aren't all."""
    queue_name, at = _sized(packed, 0, 2)
    schedule_id, at = _sized(packed, at, 2)
    parents, at = _sized(packed, at, 4)
    name, at = _sized(packed, at, 2)
    worker, at = _sized(packed, at, 2)
    if at != len(packed):
        raise ValueError("it is longer or shorter than it says")
    return {
        "queue_name": queue_name.decode(),
        "name": name.decode(),
        "worker": worker.decode() or None,
        "schedule_id": schedule_id.decode() or None,
        "depends_on": _decode_parents(parents) if parents else (),
    }


def _sized(packed: bytes, at: int, width: int) -> tuple[bytes, int]:
    """What follows its size, which takes so many bytes; and where it ends."""
    start = at + width
    end = start + int.from_bytes(packed[at:start])
    return packed[start:end], end


def result_record(task_id: str, record: bytes) -> ResultRecord:
    """The result that a record is; a damaged one has its `damage`."""
    schedule_id, end = _sized(record, _RESULT.size, 2)
    values = _RESULT.of(record)
    values["task_id"], values["schedule_id"], values["body"] = task_id, _text(schedule_id) or None, record[end:]
    values["status"] = _ENDS.get(values.get("status", 0))
    return record_of(ResultRecord, values)


def schedule_record(row: ScheduleRow) -> ScheduleRecord:
    """The schedule that a row is; a damaged one has its `damage`."""
    queue_name, end = _sized(row.record, _SCHEDULE.size, 2)
    values = {
        "id": _text(row.id),
        "queue_name": _text(queue_name),
        "body": row.record[end:],
        **_SCHEDULE.of(row.record),
    }
    version = values.get("version")
    if version is not None and version.is_integer():  # Lua knows no other numbers than floating ones
        values["version"] = int(version)
    return record_of(ScheduleRecord, values)


def _text(raw: bytes) -> str | bytes:
    """The text; what isn't one, as it is."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
