"""How batches cross into SQLite and back: as one JSON text and one blob in, as one JSON text out.

Times go as whole ticks of 2⁻²² seconds, since SQLite prints floats with 15 digits and an epoch time has 17. Floats
from 2004 to 2106 are whole numbers of ticks, so that every time comes back exactly as it was given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from omniq.models.state import TaskState
from omniq.storage.records import MAX_TIME, Count, Priority, TaskRecord

from omniq_sqlite.damage import DAMAGE, check_damage, read_tasks, texts

TICKS = float(1 << 22)
"""Ticks per second."""
FOREVER = MAX_TIME
"""Later times than that, beyond the year 36,000, would overflow SQLite's integers."""
LARGE_BODY = 32 * 1024
"""Bodies of more bytes than that travel alone, so that a batch doesn't become one giant text."""

Ticks = Annotated[int, Meta(ge=-int(FOREVER * TICKS), le=int(FOREVER * TICKS))]
Flag = Annotated[int, Meta(ge=0, le=1)]

_decode_texts = msgspec.json.Decoder(list[str]).decode


def to_ticks(seconds: float) -> int:
    return round(min(seconds, FOREVER) * TICKS)


def maybe_ticks(seconds: float | None) -> int | None:
    return None if seconds is None else to_ticks(seconds)


def to_seconds(ticks: int) -> float:
    return ticks / TICKS


def maybe_seconds(ticks: int | None) -> float | None:
    return None if ticks is None else ticks / TICKS


def ticks_of(column: str) -> str:
    """SQL for the ticks of a time."""
    return f"cast({column} * {TICKS} as integer)"


def time_at(index: int) -> str:
    """SQL for the time whose ticks are at this index of the JSON array `value`."""
    return f"value ->> {index} / {TICKS}"


def body_at(index: int) -> str:
    """SQL for the piece of the blob `?2` whose position and length are at this index and the next one."""
    return f"substr(?2, value ->> {index}, value ->> {index + 1})"


class Bodies:
    """Bodies that are joined into one blob."""

    def __init__(self) -> None:
        self._parts = [b"-"]  # SQLite takes pieces of an empty blob for null
        self._position = 2

    def place(self, body: bytes) -> tuple[int, int]:
        """Add a body; what `body_at` has to know."""
        position = self._position
        self._parts.append(body)
        self._position += len(body)
        return position, len(body)

    def joined(self) -> bytes:
        return b"".join(self._parts)


def encode(value: object) -> str:
    """JSON for a parameter of `json_each`."""
    return msgspec.json.encode(value).decode()


def conditions(wanted: Mapping[str, object | None]) -> tuple[str, list[object]]:
    """SQL for those conditions whose value isn't None, and their values."""
    used = {sql: value for sql, value in wanted.items() if value is not None}
    return " and ".join(used) or "true", list(used.values())


def fetch_text(connection: sqlite3.Connection, sql: str, *parameters: object) -> str:
    """What a statement returns that aggregates all into one text."""
    text: str = connection.execute(sql, parameters).fetchone()[0]
    return text


def fetch_texts(connection: sqlite3.Connection, sql: str, *parameters: object) -> list[str]:
    """The texts that a statement packs into JSON. One that isn't UTF-8 has surrogate escapes: `damage.is_named`."""
    try:
        return _decode_texts(fetch_text(connection, sql, *parameters))
    except DAMAGE as error:
        check_damage(error)
        return texts(connection, sql, parameters)


class TaskRow(Struct, array_like=True, frozen=True, gc=False):
    """A task as `FETCH_TASKS` prints it: times in ticks, the body in hexadecimal, or None for a large one."""

    id: str
    queue_name: str
    state: TaskState
    priority: Priority
    created_at: Ticks
    run_at: Ticks
    expires_at: Ticks | None
    finished_at: Ticks | None
    epoch: Count
    attempts: Count
    crashes: Count
    lease_until: Ticks | None
    claimed_at: Ticks | None
    worker: str | None
    cancel_requested: Flag
    depends_on: tuple[str, ...] | None
    schedule_id: str | None
    name: str
    body: str | None


_BODY = "case when body is not null then hex(body) end"
_FETCH_TASKS = f"""
    select json_group_array(json_array(id, queue_name, state, priority, {ticks_of("created_at")},
        {ticks_of("run_at")}, {ticks_of("expires_at")}, {ticks_of("finished_at")}, epoch, attempts, crashes,
        {ticks_of("lease_until")}, {ticks_of("claimed_at")}, worker, cancel_requested, json(depends_on),
        schedule_id, name, {{body}}))
    from task where id in (select value from json_each(?))
"""
_FETCH_WITH_BODIES = _FETCH_TASKS.format(body=_BODY)
_FETCH_WITHOUT = _FETCH_TASKS.format(body="''")
_FETCH_LARGE = "select task_id, body from large_body where task_id in (select value from json_each(?))"
_decode_tasks = msgspec.json.Decoder(list[TaskRow]).decode


def fetch_tasks(connection: sqlite3.Connection, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord]:
    """Those of the tasks that exist, in the order of `ids`; damaged ones with their `damage`."""
    try:
        return fetch_sound_tasks(connection, ids, bodies=bodies)
    except DAMAGE as error:
        check_damage(error)
        return read_tasks(connection, ids)


def fetch_sound_tasks(connection: sqlite3.Connection, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord]:
    """The same. Raises one of `DAMAGE` if a row is damaged."""
    if not ids:
        return []
    rows = _decode_tasks(fetch_text(connection, _FETCH_WITH_BODIES if bodies else _FETCH_WITHOUT, encode(ids)))
    large = [row.id for row in rows if row.body is None]
    apart: dict[str, bytes] = dict(connection.execute(_FETCH_LARGE, [encode(large)])) if large else {}
    records = {row.id: _record(row, _body(row, apart)) for row in rows}
    return [record for id_ in ids if (record := records.get(id_)) is not None]


def _body(row: TaskRow, large: dict[str, bytes]) -> bytes:
    if row.body is not None:
        return bytes.fromhex(row.body)
    if row.id in large:
        return large[row.id]
    raise ValueError("a task without a body, unless it was purged between the two statements")


def _record(row: TaskRow, body: bytes) -> TaskRecord:
    # Times are turned in place, not by calls: this runs for every task of every batch.
    return TaskRecord(
        id=row.id,
        queue_name=row.queue_name,
        body=body,
        name=row.name,
        state=row.state,
        priority=row.priority,
        created_at=row.created_at / TICKS,
        run_at=row.run_at / TICKS,
        expires_at=None if row.expires_at is None else row.expires_at / TICKS,
        finished_at=None if row.finished_at is None else row.finished_at / TICKS,
        epoch=row.epoch,
        attempts=row.attempts,
        crashes=row.crashes,
        lease_until=None if row.lease_until is None else row.lease_until / TICKS,
        claimed_at=None if row.claimed_at is None else row.claimed_at / TICKS,
        worker=row.worker,
        cancel_requested=bool(row.cancel_requested),
        depends_on=row.depends_on or (),
        schedule_id=row.schedule_id,
    )
