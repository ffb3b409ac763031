"""Rows that can't be read with the others: each is read alone then, whatever is in it.

Batches are read as one JSON text, which a single row can spoil: by a number out of bounds, a value of another type, or
text that isn't UTF-8. Such text reaches Python with surrogate escapes, and goes back as a blob that SQLite casts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from omniq.models.event import TaskEvent
from omniq.models.state import TERMINAL, TaskState
from omniq.storage.damage import event_of, result_of, schedule_of, task_of
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord

from omniq_sqlite.opening import primary_code

KEY: Final = "in (cast(?1 as text), ?1)"
"""SQL for a key of any type, given as a blob."""
_TASK = f"""
    select task.*, large_body.body as large_body from task left join large_body on task_id = id where id {KEY}
"""
_MEND = f"""
    update task set queue_name = ?2, state = ?3, priority = ?4, created_at = ?5, run_at = ?6, expires_at = ?7,
        finished_at = ?8, epoch = ?9, attempts = ?10, crashes = ?11, lease_until = ?12, claimed_at = ?13, worker = ?14,
        cancel_requested = ?15, depends_on = ?16, schedule_id = ?17,
        body = case when exists (select 1 from large_body where task_id = id) then null else ?18 end
    where id {KEY}
"""
_RESULT = f"select * from result where task_id {KEY}"

_FIRST, _LAST = "\udc00", "\udcff"
"""What the bytes of ids that aren't text are escaped as; Python's surrogate escapes are among them."""
DAMAGE: Final = (ValueError, sqlite3.OperationalError)
"""What reading a batch may raise where a row is damaged; `check_damage` tells."""


def check_damage(error: Exception) -> None:
    """Raise the error again, unless a damaged row explains it."""
    if isinstance(error, sqlite3.Error) and primary_code(error) != sqlite3.SQLITE_ERROR:
        raise error


def key(id_: str) -> bytes:
    """An id as `KEY` takes it, and by which SQLite orders it."""
    if is_named(id_):
        return id_.encode()
    return b"".join(char.encode() if not _FIRST <= char <= _LAST else bytes([ord(char) - ord(_FIRST)]) for char in id_)


def is_named(id_: str) -> bool:
    """Whether the id is text, as those who ask for a task give it."""
    return id_.isascii() or not any(_FIRST <= char <= _LAST for char in id_)


def texts(connection: sqlite3.Connection, sql: str, parameters: Sequence[object]) -> list[str]:
    """What a statement that packs one column of texts into JSON would have packed."""
    head, _, rest = sql.partition("json_group_array(")
    column, _, rest = rest.partition(")")
    found = (row[0] for row in connection.execute(f"{head}{column}{rest}", parameters))
    return [_text(value) for value in found]


def _text(value: object) -> str:
    """The text that a value is. A blob's bytes are all escaped, as those of a text are which aren't UTF-8."""
    return "".join(chr(ord(_FIRST) + byte) for byte in value) if isinstance(value, bytes) else str(value)


def read_tasks(connection: sqlite3.Connection, ids: Iterable[str]) -> list[TaskRecord]:
    """Those of the tasks that exist, one by one."""
    rows = (row for id_ in ids for row in rows_of(connection, _TASK, (key(id_),)))
    return [_task(row) for row in rows]


def give_stand_ins(connection: sqlite3.Connection, ids: Iterable[str], *, set_aside: bool = False) -> dict[str, str]:
    """Write the stand-ins of damaged tasks in place of what they stand for; returns what was wrong, by id.

    With `set_aside`, each task becomes a dead letter by it.
    """
    damage: dict[str, str] = {}
    for id_ in ids:
        for record in read_tasks(connection, [id_]):
            if record.damage is not None or set_aside:
                _give_stand_ins(connection, id_, record, TaskState.ERROR if set_aside else record.state)
                damage[id_] = record.damage or "its id isn't text"
    return damage


def _give_stand_ins(connection: sqlite3.Connection, id_: str, record: TaskRecord, state: TaskState) -> None:
    ended = state in TERMINAL
    connection.execute(
        _MEND,
        (
            key(id_),
            record.queue_name,
            state,
            record.priority,
            record.created_at,
            record.run_at,
            record.expires_at,
            (record.finished_at or 0.0) if ended else None,
            record.epoch,
            record.attempts,
            record.crashes,
            None if ended else record.lease_until,
            record.claimed_at,
            record.worker,
            record.cancel_requested,
            msgspec.json.encode(record.depends_on).decode() if record.depends_on else None,
            record.schedule_id,
            record.body,
        ),
    )


def read_results(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, ResultRecord]:
    """The results of those tasks that have one, one by one."""
    return {id_: result_of(row) for id_ in ids for row in rows_of(connection, _RESULT, (key(id_),))}


def read_schedules(connection: sqlite3.Connection, sql: str, parameters: Sequence[object]) -> list[ScheduleRecord]:
    """The schedules that a statement selects, one by one."""
    return [schedule_of({**row, "paused": _flag(row["paused"])}) for row in rows_of(connection, sql, parameters)]


def read_events(connection: sqlite3.Connection, sql: str, parameters: Sequence[object]) -> list[TaskEvent]:
    """The events that a statement selects, one by one."""
    rows = rows_of(connection, sql, parameters)
    return [event_of({**row, "data": {} if row["data"] is None else _parsed(row["data"])}) for row in rows]


def rows_of(connection: sqlite3.Connection, sql: str, parameters: Sequence[object]) -> list[dict[str, object]]:
    """The rows that a statement selects, by the names of their columns."""
    cursor = connection.execute(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _task(row: Mapping[str, object]) -> TaskRecord:
    depends_on = () if row["depends_on"] is None else _parsed(row["depends_on"])
    body = row["large_body"] if row["body"] is None else row["body"]
    flag = _flag(row["cancel_requested"])
    return task_of({**row, "depends_on": depends_on, "body": body, "cancel_requested": flag})


def _flag(value: object) -> object:
    return bool(value) if value in (0, 1) else value


def _parsed(value: object) -> object:
    """What a JSON text says, or the value itself where it is none."""
    try:
        parsed: object = msgspec.json.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
    return parsed
