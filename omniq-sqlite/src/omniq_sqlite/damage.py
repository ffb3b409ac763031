"""Damaged tasks that are to end: what they were read as is written, so that they can be ended like others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from msgspec.structs import asdict, fields, replace
from omniq.models.state import TaskState
from omniq.storage.records import TaskRecord
from omniq.storage.sql.tables import TASKS

from omniq_sqlite.wire import as_blob, encode, fetch_tasks, is_named, reader

_COLUMNS = [field.name for field in fields(TaskRecord) if field.name not in ("id", "unique", "body", "damage")]
_MEND = f"""
    update task set {", ".join(f"{column} = :{column}" for column in _COLUMNS)}, unique_key = null,
        body = case when exists (select 1 from large_body where task_id = id) then null else :body end
    where id in (cast(:key as text), :key)
"""


def write_stand_ins(connection: sqlite3.Connection, tasks: Iterable[TaskRecord]) -> None:
    """Write the stand-ins of those of the tasks that are damaged in place of what they stand for."""
    damaged = [task.id for task in tasks if task.damage is not None]
    for task in fetch_tasks(connection, damaged):
        _write(connection, task.id, task)


def set_nameless_aside(connection: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
    """Those ids by which a task can be told; the tasks of the others become dead letters."""
    nameless = [id_ for id_ in ids if not is_named(id_)]
    for id_, task in zip(nameless, reader(TASKS).fetch(connection, nameless), strict=True):
        if task is not None:
            ended = task.finished_at or 0.0
            _write(connection, id_, replace(task, state=TaskState.ERROR, finished_at=ended, lease_until=None))
    return [id_ for id_ in ids if is_named(id_)] if nameless else list(ids)


def _write(connection: sqlite3.Connection, id_: str, task: TaskRecord) -> None:
    """It gives its unique key up: that may be what is damaged, and of several stand-ins only one could have it."""
    columns = asdict(task) | {
        "depends_on": encode(task.depends_on) if task.depends_on else None,
        "key": as_blob(id_),
    }
    connection.execute(_MEND, columns)
