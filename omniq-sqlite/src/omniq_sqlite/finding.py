"""Looking tasks up by anything but their ids, counting them, and deleting the old ones."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.damage import shown, state_of
from omniq.storage.records import QueueStats, TaskFilter, TaskPage

from omniq_sqlite.damage import DAMAGE, KEY, check_damage, is_named, key
from omniq_sqlite.wire import conditions, encode, fetch_tasks, fetch_text, fetch_texts

_QUEUED = "state in ('pending', 'scheduled', 'waiting')"
"""To the letter as in the index `task_expiring`: else SQLite doesn't see that it serves."""

_INDEXES = {
    TaskState.PENDING: "task_pending",
    TaskState.SCHEDULED: "task_scheduled",
    TaskState.WAITING: "task_waiting",
    TaskState.RUNNING: "task_running",
    TaskState.ERROR: "task_error",
}
"""The indexes of the states that are rare among finished tasks. SQLite would rather walk those than sort."""

FIND = "select json_group_array(id) from (select id from {scan} and {restrictions} order by id limit ?)"
_AS_JSON = "json_group_array(json_array(queue_name, state, count))"
COUNT = f"""
    select {_AS_JSON} from (
        select queue_name, 'pending' as state, count(*) as count from task where state = 'pending' group by queue_name
        union all
        select queue_name, 'scheduled', count(*) from task where state = 'scheduled' group by queue_name
        union all
        select queue_name, 'waiting', count(*) from task where state = 'waiting' group by queue_name
        union all
        select queue_name, 'running', count(*) from task where state = 'running' group by queue_name
        union all
        select queue_name, state, count(*) from task where finished_at is not null group by queue_name, state)
"""
_PAUSED = "select json_group_array(queue_name) from paused_queue"
_EDGES_AS_JSON = "json_group_array(json_array(parent, child))"
_CHILDREN = f"""
    select {_EDGES_AS_JSON} from edge where parent in (select value from json_each(?))
"""
SELECT_OLD = """
    select json_group_array(id) from (
        select id from task
        where finished_at is not null and finished_at <= ? and not exists (
            select 1 from edge join task as child on child.id = edge.child
            where edge.parent = task.id and child.state = 'waiting')
        order by finished_at limit ?)
"""
_DELETE = "delete from task where id in (select value from json_each(?))"
_DELETE_NAMELESS = f"delete from task where id {KEY}"
_DELETE_LARGE = "delete from large_body where task_id in (select value from json_each(?))"
_DELETE_EDGES = """
    delete from edge where parent in (select value from json_each(?1)) or child in (select value from json_each(?1))
"""
_decode_counts = msgspec.json.Decoder(list[tuple[str, TaskState, int]]).decode
_decode_edges = msgspec.json.Decoder(list[tuple[str, str]]).decode


def find_tasks(
    connection: sqlite3.Connection, where: TaskFilter, limit: int, cursor: str | None, *, bodies: bool = False
) -> TaskPage:
    """A page in the order of the ids; the cursor is the last id."""
    restrictions, values = conditions(
        {
            "id > cast(? as text)": None if cursor is None else key(cursor),
            "queue_name = ?": where.queue_name,
            "schedule_id = ?": where.schedule_id,
            "expires_at <= ?": clock.now() if where.expired else None,
        }
    )
    with _snapshot(connection):  # so that what is told of a task is what it was found by
        ids: list[str] = []
        for scan in scans(where):
            sql = FIND.format(scan=scan, restrictions=restrictions)
            ids += fetch_texts(connection, sql, *values, limit + 1)
        page = sorted(ids, key=key)[:limit]
        tasks = fetch_tasks(connection, page, bodies=bodies)
        return TaskPage(tasks, page[-1] if page and len(ids) > limit else None)


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
    if where.expired:
        return [f"task indexed by task_expiring where {_QUEUED} and {_any_of(where.states)}"]
    if where.schedule_id is not None or not where.states:
        return [f"task where {_any_of(where.states)}"]
    return [_scan(state) for state in dict.fromkeys(where.states)]


def _any_of(states: Sequence[TaskState]) -> str:
    listed = ", ".join(f"'{state}'" for state in states)
    return f"state in ({listed})" if states else "true"


def _scan(state: TaskState) -> str:
    indexed = f"indexed by {_INDEXES[state]}" if state in _INDEXES else ""
    return f"task {indexed} where state = '{state}'"


def count_tasks(connection: sqlite3.Connection) -> list[QueueStats]:
    """Every queue that holds tasks or is paused, by name."""
    paused = [shown(name) for name in fetch_texts(connection, _PAUSED)]
    counts: defaultdict[str, dict[TaskState, int]] = defaultdict(dict, {name: {} for name in paused})
    for name, state, count in _fetch_counts(connection):
        counts[name][state] = counts[name].get(state, 0) + count
    return [QueueStats(name=name, paused=name in paused, counts=counts[name]) for name in sorted(counts)]


def _fetch_counts(connection: sqlite3.Connection) -> list[tuple[str, TaskState, int]]:
    """How many tasks of a queue are in a state. Those in none that there is count as dead letters."""
    try:
        return _decode_counts(fetch_text(connection, COUNT))
    except DAMAGE as error:
        check_damage(error)
        rows = connection.execute(COUNT.replace(_AS_JSON, "queue_name, state, count")).fetchall()
        return [(shown(name), state_of(state), count) for name, state, count in rows]


def fetch_children(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """The children of those tasks that have any."""
    children: defaultdict[str, list[str]] = defaultdict(list)
    for parent, child in sorted(_fetch_edges(connection, encode(ids))):
        children[parent].append(child)
    return children


def _fetch_edges(connection: sqlite3.Connection, parents: str) -> list[tuple[str, str]]:
    """Parents and children; of the children those that can be told."""
    try:
        return _decode_edges(fetch_text(connection, _CHILDREN, parents))
    except DAMAGE as error:
        check_damage(error)
        rows = connection.execute(_CHILDREN.replace(_EDGES_AS_JSON, "parent, child"), (parents,)).fetchall()
        return [(parent, child) for parent, child in rows if isinstance(child, str) and is_named(child)]


def select_old(connection: sqlite3.Connection, older_than: float, limit: int) -> list[str]:
    """Tasks that ended that long ago and that no WAITING child depends on, longest ago first."""
    return fetch_texts(connection, SELECT_OLD, clock.now() - older_than, limit)


def purge_tasks(connection: sqlite3.Connection, older_than: float, limit: int) -> int:
    """How many were deleted."""
    old = select_old(connection, older_than, limit)
    ids = encode([id_ for id_ in old if is_named(id_)])
    nameless = [(key(id_),) for id_ in old if not is_named(id_)]
    connection.executemany(_DELETE_NAMELESS, nameless)
    connection.execute(_DELETE_EDGES, (ids,))
    connection.execute(_DELETE_LARGE, (ids,))
    return connection.execute(_DELETE, (ids,)).rowcount + len(nameless)
