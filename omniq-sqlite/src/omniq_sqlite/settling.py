"""Writing what was decided of tasks that end, retry, go back or are cancelled; and new bodies for tasks."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from omniq import clock
from omniq.storage.records import MAX_COUNT, Change, NewBody
from omniq.storage.sql import claiming
from omniq.storage.sql.claiming import SET_CHANGED, Decided, Ending, Seen, Settled, changed, with_children
from omniq.storage.sql.results import NEW, PUT
from omniq.storage.sql.steps import TASKS, Given, Steps, ask, call, do, get, kinds

from omniq_sqlite.damage import write_stand_ins
from omniq_sqlite.wire import LARGE_BODY

_ENDING: Final = kinds("id text, epoch integer")
_HELD: Final = """
    with {given}
    select count(*), count((select 1 from omniq.edge where parent = task.id limit 1))
    from given cross join omniq.task as task on task.id = given.id
    where state = 'running' and task.epoch = given.epoch and (:worker is null or worker = :worker)
"""
"""How many are, and how many of those have children: one statement for all, since a thread may wait for the GIL after
each."""
END: Final = f"""
    update omniq.task set state = :state, finished_at = :now, lease_until = null, unique_key = null,
        attempts = min(attempts, {MAX_COUNT}) + :attempted, crashes = min(crashes, {MAX_COUNT}) + :crashed
    where id {{any[ids]}}
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
    settled = Settled(parents=set())
    end, look = partial(_end, settled), partial(_look, settled)
    return (yield from claiming.settle(changes, settled, end=end, look=look, write=_write))


def _end(settled: Settled, ending: Ending, changes: Sequence[Change]) -> Steps[Collection[str]]:
    """All tasks, if all are held."""
    ids = [change.task_id for change in changes]
    held = ask(("integer", "integer"), _HELD, Given.of(_ENDING, changes, id=ids), worker=ending.worker)
    ((count, parents),) = yield from held
    if count < len(ids):
        return ()
    yield from do(END, ids=ids, **ending._asdict())
    yield from _put_results(changes, clock.now())
    yield from _note_parents(settled, ids if parents else ())
    return set(ids)


def _look(settled: Settled, ids: Sequence[str]) -> Steps[Seen]:
    tasks = yield from get(TASKS, ids, bodies=False)
    yield from _note_parents(settled, ids)
    return Seen({task.id: task for task in tasks if task is not None}, clock.now())


def _note_parents(settled: Settled, ids: Sequence[str]) -> Steps[None]:
    if ids and settled.parents is not None:
        settled.parents |= yield from with_children(ids)


def _write(decided: Decided) -> Steps[Collection[str]]:
    (found, now, _), changes, records = decided
    yield from call(partial(write_stand_ins, tasks=[found[record.id] for record in records]))
    yield from do(UPDATE, changed(records))
    yield from _put_results(changes, now)
    return found


def _put_results(changes: Sequence[Change], now: float) -> Steps[None]:
    if results := [change.result for change in changes if change.result is not None]:
        yield from do(PUT, Given.of(NEW, results), now=now)


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
