"""What crosses to the scripts and back.

A batch goes as lists of ids, epochs and sizes, with what its items may share told once for all that do, and with their
bodies joined behind: to a script, a list of 500 numbers costs far less than 500 short lists. Tasks, results and
schedules are kept, and come back, as strings that the scripts pack with Lua's `struct`.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace
from omniq.batching import parts
from omniq.models.state import TaskState
from omniq.storage.damage import result_of, schedule_of, task_of
from omniq.storage.records import (
    MAX_COUNT,
    MAX_TIME,
    Added,
    Change,
    Changed,
    ChangeStatus,
    LeaseStatus,
    NewBody,
    NewTask,
    ResultRecord,
    ScheduleRecord,
    TaskRecord,
)

T = TypeVar("T")
Kind: TypeAlias = tuple[Hashable, ...]

PARCEL = 500
"""Items that one script call handles at most: it takes some milliseconds, in which the server does nothing else."""
PARCEL_BYTES = 4 * 1024 * 1024
"""Bytes of bodies that one call carries, unless a single one is larger."""

encode = msgspec.msgpack.Encoder().encode
_decode_parents = msgspec.msgpack.Decoder(tuple[str, ...]).decode

# As in the scripts.
_TASK = Struct(">BbIIIIIBdddddd")
_RESULT = Struct(">IBdddH")
_SCHEDULE = Struct(">BddH")
_NEVER = math.inf
_NO_RECORD = "its record is none of ours"
_STATES = (
    TaskState.PENDING,
    TaskState.SCHEDULED,
    TaskState.WAITING,
    TaskState.RUNNING,
    TaskState.SUCCESS,
    TaskState.ERROR,
    TaskState.CANCELLED,
    TaskState.EXPIRED,
)
_CODES = {state: code for code, state in enumerate(_STATES, 1)}

ADDED = {ord("n"): Added.NEW, ord("d"): Added.DUPLICATE, ord("u"): Added.UNKNOWN_PARENT}
LEASES = {
    ord("l"): LeaseStatus(held=False),
    ord("h"): LeaseStatus(held=True),
    ord("c"): LeaseStatus(held=True, cancel_requested=True),
}
_STATUSES = {
    "a": ChangeStatus.APPLIED,
    "p": ChangeStatus.REPEATED,
    "r": ChangeStatus.REFUSED,
    "m": ChangeStatus.MISSING,
}
CHANGED = {ord(letter): Changed(status) for letter, status in _STATUSES.items()} | {
    ord(letter.upper()): Changed(status, has_children=True) for letter, status in _STATUSES.items()
}
"""What a letter of a script's answer means; a capital tells of children that wait."""


class Batch(NamedTuple):
    """The arguments of a script, and the bodies that go with them."""

    args: object
    bodies: bytes = b""


# ── to the scripts ───────────────────────────────────────────────────────────


def tasks_batch(tasks: Sequence[NewTask]) -> Batch:
    kinds, kind = _sorted_out(map(task_kind, tasks))
    ids = [task.id for task in tasks]
    return Batch((kinds, ids, kind, [len(task.body) for task in tasks]), b"".join([task.body for task in tasks]))


def task_kind(task: NewTask) -> Kind:
    """What a task may share with others."""
    return (
        task.queue_name,
        task.priority,
        task.run_at,
        task.delay,
        task.ttl,
        task.depends_on or None,
        task.schedule_id,
        task.name,
    )


def results_batch(results: Sequence[ResultRecord]) -> Batch:
    kinds, kind = _sorted_out((_CODES[r.status], r.ttl, r.schedule_id or "") for r in results)
    ids = [result.task_id for result in results]
    bodies = [result.body for result in results]
    epochs = [result.epoch for result in results]
    return Batch((kinds, ids, kind, epochs, list(map(len, bodies))), b"".join(bodies))


def bodies_batch(bodies: Sequence[NewBody]) -> Batch:
    ids = [new.task_id for new in bodies]
    sizes = [len(new.old) for new in bodies], [len(new.body) for new in bodies]
    return Batch((ids, *sizes), b"".join(part for new in bodies for part in (new.old, new.body)))


def changes_batch(changes: Sequence[Change]) -> Batch:
    kinds, kind = _sorted_out(map(_change_kind, changes))
    ids = [change.task_id for change in changes]
    # A Lua list has no holes: `false` for what isn't given.
    epochs = [False if change.epoch is None else change.epoch for change in changes]
    results = results_batch([change.result for change in changes if change.result is not None])
    return Batch((kinds, ids, kind, epochs, results.args), results.bodies)


def _change_kind(change: Change) -> Kind:
    return (
        states_mask(change.from_states),
        _CODES[change.to],
        change.delay,
        change.attempted,
        change.crashed,
        change.fresh,
        change.if_expired,
        change.request_cancel,
        change.result is not None,
    )


@functools.lru_cache
def states_mask(states: tuple[TaskState, ...]) -> int:
    """A bit for each state."""
    return sum(1 << _CODES[state] for state in set(states))


def _sorted_out(kinds: Iterable[Kind]) -> tuple[list[Kind], list[int]]:
    """The different kinds, and which of them each is, counted from 1 as Lua does."""
    places: dict[Kind, int] = {}
    which = [places.setdefault(kind, len(places) + 1) for kind in kinds]
    return list(places), which


def parcels(items: Sequence[T], weight: Callable[[T], int], max_bytes: int) -> Iterator[Sequence[T]]:
    """The items in order, in parts that one script call can handle: their bodies go as one string of the protocol."""
    return parts(items, weight, limit=PARCEL, max_bytes=min(PARCEL_BYTES, max_bytes))


def weight_of_task(task: NewTask) -> int:
    """That of its body; a parent, which is read and written too, counts as some more."""
    return len(task.body) + PARCEL_BYTES // PARCEL * len(task.depends_on)


def weight_of_body(new: NewBody) -> int:
    return len(new.old) + len(new.body)


# ── and back ─────────────────────────────────────────────────────────────────


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
    if not (
        state > 0
        and -100 <= priority <= 100
        and epoch <= MAX_COUNT >= attempts
        and crashes <= MAX_COUNT
        and -MAX_TIME <= created <= MAX_TIME
        and -MAX_TIME <= due <= MAX_TIME
        and expires >= -MAX_TIME
        and finished >= -MAX_TIME
        and lease >= -MAX_TIME
        and claimed >= -MAX_TIME
    ):
        raise ValueError("a number is out of bounds")
    queue_name, name, worker, schedule_id, depends_on = _texts(record[_TASK.size :])
    return TaskRecord(
        id=row.id.decode(),
        queue_name=queue_name,
        body=row.body,
        name=name,
        state=_STATES[state - 1],
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
        "state": _STATES[state - 1] if 0 < state <= len(_STATES) else state,
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
        "status": _STATES[status - 1] if 0 < status <= len(_STATES) else status,
        "body": record[_RESULT.size + size :],
        "ttl": None if ttl == _NEVER else ttl,
        "schedule_id": schedule_id,
        "finished_at": finished_at,
        "expires_at": None if expires_at == _NEVER else expires_at,
    }
    sound = epoch <= MAX_COUNT and 4 < status <= len(_STATES) and ttl >= 0 and -MAX_TIME <= finished_at <= MAX_TIME
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
