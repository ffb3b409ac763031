"""Replacing the bodies of tasks and results, as when they are signed with another key."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from omniq.storage.records import NewBody

from omniq_sqlite.wire import LARGE_BODY

_HAS_OLD = """
    select 1 from task left join large_body on large_body.task_id = task.id
    where task.id = ? and coalesce(task.body, large_body.body) = ?
"""
_OF_TASK = "update task set body = ? where id = ?"
_DELETE_LARGE = "delete from large_body where task_id = ?"
_INSERT_LARGE = "insert into large_body (task_id, body) values (?, ?)"
_OF_RESULT = "update result set body = ? where task_id = ? and body = ?"


def replace_task_bodies(connection: sqlite3.Connection, bodies: Sequence[NewBody]) -> list[bool]:
    """Whether each was replaced."""
    return [_replace(connection, new) for new in bodies]


def _replace(connection: sqlite3.Connection, new: NewBody) -> bool:
    if connection.execute(_HAS_OLD, (new.task_id, new.old)).fetchone() is None:
        return False
    is_large = len(new.body) > LARGE_BODY
    connection.execute(_DELETE_LARGE, (new.task_id,))
    if is_large:
        connection.execute(_INSERT_LARGE, (new.task_id, new.body))
    connection.execute(_OF_TASK, (None if is_large else new.body, new.task_id))
    return True


def replace_result_bodies(connection: sqlite3.Connection, bodies: Sequence[NewBody]) -> list[bool]:
    """Whether each was replaced."""
    return [connection.execute(_OF_RESULT, (new.body, new.task_id, new.old)).rowcount == 1 for new in bodies]
