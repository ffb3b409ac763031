"""`transition`: the one write by which tasks end, retry, go back or cancel; and new bodies for tasks."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.records import Change, Changed, ChangeStatus, NewBody, ResultRecord, TaskRecord
from omniq.storage.rules import decide
from omniq.storage.sql.results import NEW, PUT
from omniq.storage.sql.steps import Given, do
from omniq.storage.sql.tables import TASKS

from omniq_sqlite.damage import write_stand_ins
from omniq_sqlite.dialect import carry_out
from omniq_sqlite.wire import LARGE_BODY, Reader, encode, maybe_ticks, time_at, to_ticks

_HAS_CHILDREN = "parent"
_MADE_UP = {
    **dict.fromkeys(("priority", "created_at"), "0"),
    **dict.fromkeys(("claimed_at", "depends_on", "schedule_id"), "null"),
    "queue_name": "''",
    "name": f"ifnull((select '{_HAS_CHILDREN}' from edge where parent = task.id limit 1), '')",
}
_CHANGING: Final = Reader(TASKS, _MADE_UP)
"""Of tasks what `decide` looks at and may change, and whether they have children instead of their names: one statement
for all, since a thread may wait for the GIL after each."""
END = """
    update task set state = ?2, finished_at = ?3, lease_until = null, unique_key = null
    where id in (select value from json_each(?1))
"""
UPDATE = f"""
    with change as materialized (select value from json_each(?))
    update task set state = value ->> 1, run_at = {time_at(2)}, expires_at = {time_at(3)}, finished_at = {time_at(4)},
        attempts = value ->> 5, crashes = value ->> 6, lease_until = {time_at(7)}, worker = value ->> 8,
        cancel_requested = value ->> 9, unique_key = value ->> 10
    from change where task.id = value ->> 0
"""
_HAS_OLD = """
    select 1 from task left join large_body on large_body.task_id = task.id
    where task.id = ? and coalesce(task.body, large_body.body) = ?
"""
_REPLACE = "update task set body = ? where id = ?"
_DELETE_LARGE = "delete from large_body where task_id = ?"
INSERT_LARGE = "insert into large_body (task_id, body) values (?, ?)"


class Settled(Struct, frozen=True):
    """What came of a batch of changes."""

    answers: list[Changed]
    any_due: bool
    """Whether a task became PENDING."""
    results: list[ResultRecord]
    """Those of the changes that were applied."""


def settle(connection: sqlite3.Connection, changes: Sequence[Change]) -> Settled:
    """Decide the changes, then write all that came of them at once.

    A damaged task is decided by its stand-ins, which are written only with a change.
    """
    now = clock.now()
    ids = [change.task_id for change in changes]
    before = {task.id: task for task in _CHANGING.fetch(connection, ids, bodies=False) if task is not None}
    decided = [decide(before.get(change.task_id), change, now) for change in changes]
    after = [task for _, task in decided if task is not None]
    results = [
        change.result
        for change, (status, _) in zip(changes, decided, strict=True)
        if status is ChangeStatus.APPLIED and change.result is not None
    ]
    write_stand_ins(connection, [before[task.id] for task in after])
    _write(connection, before, after, now)
    if results:
        carry_out(connection, partial(do, PUT, Given.of(NEW, results)))
    return Settled(
        [Changed(status, _has_children(before.get(id_))) for id_, (status, _) in zip(ids, decided, strict=True)],
        any(task.state is TaskState.PENDING for task in after),
        results,
    )


def _has_children(task: TaskRecord | None) -> bool:
    return task is not None and task.name == _HAS_CHILDREN


def _write(
    connection: sqlite3.Connection, before: Mapping[str, TaskRecord], after: list[TaskRecord], now: float
) -> None:
    """One statement per terminal state for the tasks that have just ended, and one for the others."""
    ended: defaultdict[TaskState, list[str]] = defaultdict(list)
    others = []
    for task in after:
        if task == replace(before[task.id], state=task.state, finished_at=now, lease_until=None, unique=None):
            ended[task.state].append(task.id)
        else:
            others.append(_row(task))
    for state, ids in ended.items():
        connection.execute(END, (encode(ids), state, now))
    if others:
        connection.execute(UPDATE, (encode(others),))


def _row(task: TaskRecord) -> tuple[object, ...]:
    return (
        task.id,
        task.state,
        to_ticks(task.run_at),
        maybe_ticks(task.expires_at),
        maybe_ticks(task.finished_at),
        task.attempts,
        task.crashes,
        maybe_ticks(task.lease_until),
        task.worker,
        task.cancel_requested,
        task.unique,
    )


def replace_task_bodies(connection: sqlite3.Connection, bodies: Sequence[NewBody]) -> list[bool]:
    """As `BaseTaskQueue.replace_bodies`."""
    return [_replace(connection, new) for new in bodies]


def _replace(connection: sqlite3.Connection, new: NewBody) -> bool:
    if connection.execute(_HAS_OLD, (new.task_id, new.old)).fetchone() is None:
        return False
    is_large = len(new.body) > LARGE_BODY
    connection.execute(_DELETE_LARGE, (new.task_id,))
    if is_large:
        connection.execute(INSERT_LARGE, (new.task_id, new.body))
    connection.execute(_REPLACE, (None if is_large else new.body, new.task_id))
    return True
