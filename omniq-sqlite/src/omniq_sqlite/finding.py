"""Looking tasks up by anything but their ids, counting them, and deleting the old ones."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from omniq import clock
from omniq.models.state import TERMINAL, TaskState
from omniq.storage.damage import shown
from omniq.storage.records import QueueStats, TaskFilter, TaskPage, TaskRecord
from omniq.storage.rules import queue_stats

from omniq_sqlite.wire import (
    KEY,
    TASKS,
    TICKS,
    as_blob,
    conditions,
    encode,
    fetch_rows,
    fetch_tasks,
    fetch_texts,
    is_named,
    ticks_of,
)

_QUEUED = "state in ('pending', 'scheduled', 'waiting')"
"""To the letter as in the index `task_expiring`: else SQLite doesn't see that it serves."""
FIND = "select id from {scan} and {restrictions} order by id {order} limit ?"
_RESTING = "select queue_name, '{0}', count(*) from task indexed by task_{0} where state = '{0}' group by 1"
_ENDED = "from task where outcome is not null and outcome"
COUNT = f"""
    with recursive
        ending (how) as (
            select (select min(outcome) from task where outcome is not null)
            union all select (select min(outcome) {_ENDED} > how) from ending where how is not null),
        ended (how, queue) as (
            select how, (select min(queue_name) {_ENDED} = how) from ending where how is not null
            union all select how, (select min(queue_name) {_ENDED} = how and queue_name > queue)
                from ended where queue is not null)
    select queue, how, (select count(*) {_ENDED} = how and queue_name = queue) from ended where queue is not null
    union all {" union all ".join(map(_RESTING.format, ("pending", "scheduled", "waiting", "running")))}
"""
"""Of the tasks that have ended each pair of outcome and queue is looked up, and its tasks are counted: that takes half
the time of grouping them."""
OLDEST = f"""
    with recursive rank (queue, priority) as (
        select value, (select max(priority) from task where state = 'pending' and queue_name = value) from json_each(?1)
        union all select queue, (select max(priority) from task
            where state = 'pending' and queue_name = queue and priority < rank.priority)
            from rank where rank.priority is not null)
    select queue, {ticks_of("min(run_at)")} from (
        select queue, (select min(run_at) from task
            where state = 'pending' and queue_name = queue and priority = rank.priority) as run_at from rank
        union all select value, (select min(run_at) from task
            where state = 'scheduled' and queue_name = value and run_at <= ?2) from json_each(?1))
    where run_at is not null group by queue
"""
"""The first task of each priority is looked up."""
_PAUSED = "select queue_name from paused_queue"
_CHILDREN = "select parent, child from edge where parent in (select value from json_each(?)) order by child"
SELECT_OLD = """
    select id from task
    where finished_at is not null and finished_at <= ? and not exists (
        select 1 from edge join task as child on child.id = edge.child
        where edge.parent = task.id and child.state = 'waiting')
    order by finished_at limit ?
"""
_DELETE = "delete from task where id in (select value from json_each(?))"
_DELETE_NAMELESS = f"delete from task where id {KEY}"
_DELETE_LARGE = "delete from large_body where task_id in (select value from json_each(?))"
_DELETE_EDGES = """
    delete from edge where parent in (select value from json_each(?1)) or child in (select value from json_each(?1))
"""


def get_tasks(connection: sqlite3.Connection, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
    """As `BaseTaskQueue.get`."""
    return TASKS.fetch(connection, ids, bodies=bodies)


def find_tasks(
    connection: sqlite3.Connection,
    where: TaskFilter,
    *,
    newest_first: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    bodies: bool = False,
) -> TaskPage:
    """As `BaseTaskQueue.find`; the cursor is the last id."""
    beyond, order = ("<", "desc") if newest_first else (">", "asc")
    restrictions, values = conditions(
        {
            f"id {beyond} cast(? as text)": None if cursor is None else as_blob(cursor),
            "queue_name = ?": where.queue_name,
            "name = ?": where.name,
            "schedule_id = ?": where.schedule_id,
            "expires_at <= ?": clock.now() if where.expired else None,
        }
    )
    with _snapshot(connection):  # so that what is told of a task is what it was found by
        ids: list[str] = []
        for scan in scans(where):
            sql = FIND.format(scan=scan, restrictions=restrictions, order=order)
            ids += fetch_texts(connection, sql, *values, limit + 1)
        page = sorted(ids, key=as_blob, reverse=newest_first)[:limit]
        tasks = fetch_tasks(connection, page, bodies=bodies)
    return TaskPage(tasks, page[-1] if len(ids) > limit else None)


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the statements see one state of the file."""
    connection.execute("begin")
    try:
        yield
    finally:
        connection.execute("rollback")  # nothing was written


def scans(where: TaskFilter) -> list[str]:
    """SQL from `from` on that together finds the wanted states, each by the index with the fewest rows."""
    listed = ", ".join(f"'{state}'" for state in where.states)
    any_of = f"state in ({listed})" if listed else "true"
    if where.expired:
        return [f"task indexed by task_expiring where {_QUEUED} and {any_of}"]
    if where.schedule_id is not None:
        return [f"task indexed by task_of_schedule where {any_of}"]
    if where == TaskFilter():
        return ["task where true"]
    return [_scan(state) for state in dict.fromkeys(where.states or TaskState)]


def _scan(state: TaskState) -> str:
    """SQLite would rather walk all tasks than sort those that haven't ended."""
    if state in TERMINAL:
        return f"task where outcome = '{state}'"
    return f"task indexed by task_{state} where state = '{state}'"


def count_tasks(connection: sqlite3.Connection) -> list[QueueStats]:
    """As `BaseTaskQueue.stats`."""
    with _snapshot(connection):
        counts = fetch_rows(connection, 3, COUNT)
        queues = encode([name for name in {row[0] for row in counts} if isinstance(name, str) and is_named(name)])
        oldest = fetch_rows(connection, 2, OLDEST, queues, clock.now())
        paused = fetch_texts(connection, _PAUSED)
    return queue_stats(
        [(shown(name), TaskState(state), count) for name, state, count in counts],
        map(shown, paused),
        {name: ticks / TICKS for name, ticks in oldest},
    )


def fetch_children(connection: sqlite3.Connection, ids: Sequence[str]) -> list[list[str]]:
    """As `BaseTaskQueue.children`; of those that can be told."""
    children: defaultdict[str, list[str]] = defaultdict(list)
    for parent, child in fetch_rows(connection, 2, _CHILDREN, encode(ids)):
        if isinstance(child, str) and is_named(child):
            children[parent].append(child)
    return [children[id_] for id_ in ids]


def any_old(connection: sqlite3.Connection, older_than: float) -> bool:
    """Whether there is something to purge."""
    return bool(_select_old(connection, older_than, 1))


def _select_old(connection: sqlite3.Connection, older_than: float, limit: int) -> list[str]:
    """Tasks that ended that long ago and that no WAITING child depends on, longest ago first."""
    return fetch_texts(connection, SELECT_OLD, clock.now() - older_than, limit)


def purge_tasks(connection: sqlite3.Connection, older_than: float, limit: int) -> int:
    """How many were deleted."""
    old = _select_old(connection, older_than, limit)
    ids = encode([id_ for id_ in old if is_named(id_)])
    connection.executemany(_DELETE_NAMELESS, [(as_blob(id_),) for id_ in old if not is_named(id_)])
    for sql in (_DELETE_EDGES, _DELETE_LARGE, _DELETE):
        connection.execute(sql, (ids,))
    return len(old)
