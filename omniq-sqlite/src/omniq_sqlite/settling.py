"""Writing what was decided of tasks that end, retry, go back or are cancelled; and new bodies for tasks."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace
from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.records import Change, NewBody
from omniq.storage.sql import settling
from omniq.storage.sql.results import NEW, PUT
from omniq.storage.sql.settling import SET_CHANGED, Decided, Seen, Settled, changed
from omniq.storage.sql.steps import Given, Steps, Table, call, do, get
from omniq.storage.sql.tables import TASKS

from omniq_sqlite.damage import write_stand_ins
from omniq_sqlite.wire import LARGE_BODY

_HAS_CHILDREN = "parent"
_CHANGING: Final = Table(
    "task",
    "id",
    TASKS.record,
    TASKS.damaged,
    columns={
        **TASKS.columns,
        **dict.fromkeys(("priority", "created_at"), "0"),
        **dict.fromkeys(("claimed_at", "depends_on", "schedule_id"), "null"),
        "name": f"ifnull((select '{_HAS_CHILDREN}' from edge where parent = task.id limit 1), '')",
    },
)
"""Of tasks what `decide` looks at and may change, and whether they have children instead of their names: one statement
for all, since a thread may wait for the GIL after each."""
END: Final = """
    update omniq.task set state = :state, finished_at = :now, lease_until = null, unique_key = null where id {any[ids]}
"""
UPDATE: Final = f"with {{given}} update omniq.task set {SET_CHANGED} from given where task.id = given.id"
_HAS_OLD = """
    select 1 from task left join large_body on large_body.task_id = task.id
    where task.id = ? and coalesce(task.body, large_body.body) = ?
"""
_REPLACE = "update task set body = ? where id = ?"
_DELETE_LARGE = "delete from large_body where task_id = ?"
INSERT_LARGE = "insert into large_body (task_id, body) values (?, ?)"


def settle(changes: Sequence[Change]) -> Steps[Settled]:
    """Apply the changes whose conditions hold, all at once: nobody else writes meanwhile.

    A damaged task is decided by its stand-ins, which are written only with a change.
    """
    settled = Settled(parents=())
    return (yield from settling.settle(changes, settled, partial(_look, settled), _write))


def _look(settled: Settled, ids: Sequence[str]) -> Steps[Seen]:
    now = clock.now()
    tasks = yield from get(_CHANGING, ids, bodies=False)
    found = {task.id: task for task in tasks if task is not None}
    settled.parents = {task.id for task in found.values() if task.name == _HAS_CHILDREN}
    return Seen(found, now)


def _write(decided: Decided) -> Steps[Collection[str]]:
    """One statement per terminal state for the tasks that have just ended, and one for the others."""
    (found, now, _), changes, records = decided
    yield from call(partial(write_stand_ins, tasks=[found[record.id] for record in records]))
    ended: defaultdict[TaskState, list[str]] = defaultdict(list)
    others = []
    for task in records:
        if task == replace(found[task.id], state=task.state, finished_at=now, lease_until=None, unique=None):
            ended[task.state].append(task.id)
        else:
            others.append(task)
    for state, ids in ended.items():
        yield from do(END, ids=ids, state=state, now=now)
    if others:
        yield from do(UPDATE, changed(others))
    if results := [change.result for change in changes if change.result is not None]:
        yield from do(PUT, Given.of(NEW, results), now=now)
    return found


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
