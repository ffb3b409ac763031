"""Damaged tasks that are to end: what they were read as is written, so that they can be ended like others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial

from msgspec.structs import replace
from omniq.models.task import TaskState
from omniq.storage.records import TaskRecord
from omniq.storage.sql.steps import MEND, TASKS, do, mended

from omniq_sqlite.dialect import carry_out
from omniq_sqlite.wire import LARGE_BODY, as_blob, fetch_tasks, is_named, reader


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
    body = None if len(task.body) > LARGE_BODY else task.body
    carry_out(connection, partial(do, MEND, **mended(task) | {"id": as_blob(id_), "body": body}))
