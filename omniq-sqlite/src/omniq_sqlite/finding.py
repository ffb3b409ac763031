"""Looking tasks up by anything but their ids, counting them, and deleting the old ones."""

from __future__ import annotations

import math
import sqlite3
import time
from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct
from omniq import clock
from omniq.models.state import TERMINAL, TaskState
from omniq.storage.damage import shown, state_of
from omniq.storage.records import QueueStats, TaskFilter, TaskPage, TaskRecord
from omniq.storage.rules import queue_stats
from omniq.storage.sql.tables import TASKS

from omniq_sqlite.wire import (
    KEY,
    TICKS,
    as_blob,
    conditions,
    encode,
    fetch_rows,
    fetch_tasks,
    fetch_texts,
    is_named,
    reader,
    ticks_of,
)

_QUEUED = "state in ('pending', 'scheduled', 'waiting')"
_NO_STATE = " and ".join(f"state <> '{state}'" for state in TaskState)
"""Both to the letter as in the indexes: else SQLite doesn't see that they serve."""
_SCAN = "select id from task indexed by {index} where {restrictions}"
_SCAN_QUEUES = """
    with recursive ended (queue) as (
        select min(queue_name) from task indexed by {index} where {states}
        union all
        select (select min(queue_name) from task indexed by {index} where {states} and queue_name > ended.queue)
        from ended where ended.queue is not null)
    select task.id from ended cross join task on task.id in (
        select id from task indexed by {index} where {restrictions} and queue_name = ended.queue
        order by id {order} limit {limit})
"""
"""The first ones of each queue, from which the first of all are taken."""
_COUNT_SOME = "select count(*) from (select 1 from task indexed by {index} where {states} limit {limit})"
FEW = 20_000
"""Tasks of a state that are looked through for a name, at most; else those of the name are for the state."""

_RESTING = "select queue_name, '{0}', count(*) from task where state = '{0}' group by 1"
_DAMAGED = f"select queue_name, state, count(*) from task where {_NO_STATE} group by 1, 2"
COUNT = " union all ".join([*map(_RESTING.format, TaskState), _DAMAGED])
COUNT_QUICKLY, COUNT_AGAIN_AFTER = 0.02, 2.0
"""Seconds: a count that takes longer than the one is good for the other."""
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
    return reader(TASKS).fetch(connection, ids, bodies=bodies)


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
    ids: list[str] = []
    for scan in scans(connection, where):
        ids += fetch_texts(connection, scan.sql(restrictions, order=order, limit=limit + 1), *values)
    page = sorted(ids, key=as_blob, reverse=newest_first)[:limit]
    tasks = fetch_tasks(connection, page, bodies=bodies)
    return TaskPage(tasks, page[-1] if len(ids) > limit else None)


class Scan(Struct, frozen=True):
    """A walk through an index that finds tasks of some states."""

    index: str
    states: str = "true"
    by_queue: bool = False
    """Whether the index is in the order of ids within each queue only, and all queues are wanted."""

    def sql(self, restrictions: str, *, order: str, limit: int) -> str:
        """The ids that are found, in order."""
        walk = (_SCAN_QUEUES if self.by_queue else _SCAN).format(
            index=self.index,
            states=self.states,
            restrictions=f"{self.states} and {restrictions}",
            order=order,
            limit=limit,
        )
        return f"select id from ({walk} order by id {order} limit {limit})"


def scans(connection: sqlite3.Connection, where: TaskFilter) -> list[Scan]:
    """What together finds the wanted tasks, each by the index with the fewest rows."""
    listed = ", ".join(f"'{state}'" for state in where.states)
    any_of = f"state in ({listed})" if listed else "true"
    if where.expired:
        return [Scan("task_expiring", f"{_QUEUED} and {any_of}")]
    if where.schedule_id is not None:
        return [Scan("task_of_schedule", any_of)]
    if where == TaskFilter():
        return [Scan("sqlite_autoindex_task_1")]
    of_states = [_scan(state, where) for state in dict.fromkeys(where.states)]
    if where.name is not None and not (of_states and _are_few(connection, of_states)):
        return [Scan("task_of_name", any_of)]
    return of_states or [*(_scan(state, where) for state in TaskState), Scan("task_of_no_state", _NO_STATE)]


def _scan(state: TaskState, where: TaskFilter) -> Scan:
    if state in TERMINAL:
        return Scan("task_ended", f"state = '{state}'", by_queue=where.queue_name is None)
    return Scan(f"task_{state}", f"state = '{state}'")


def _are_few(connection: sqlite3.Connection, scans: Sequence[Scan]) -> bool:
    counting = [_COUNT_SOME.format(index=scan.index, states=scan.states, limit=FEW) for scan in scans]
    counts: list[int] = [connection.execute(sql).fetchone()[0] for sql in counting]
    return sum(counts) < FEW


class Counter:
    """Counts tasks; a count that takes long is kept for a while."""

    def __init__(self) -> None:
        self._counts: list[tuple[str, TaskState, int]] = []
        self._queues = ""
        self._good_until = -math.inf

    def stats(self, connection: sqlite3.Connection) -> list[QueueStats]:
        """As `BaseTaskQueue.stats`."""
        if time.monotonic() >= self._good_until:
            self._count(connection)
        oldest = fetch_rows(connection, 2, OLDEST, self._queues, clock.now())
        paused = fetch_texts(connection, _PAUSED)
        return queue_stats(self._counts, map(shown, paused), {name: ticks / TICKS for name, ticks in oldest})

    def _count(self, connection: sqlite3.Connection) -> None:
        began = time.monotonic()
        counts = fetch_rows(connection, 3, COUNT)
        self._queues = encode([name for name in {row[0] for row in counts} if isinstance(name, str) and is_named(name)])
        self._counts = [(shown(name), state_of(state), count) for name, state, count in counts]
        if time.monotonic() - began > COUNT_QUICKLY:
            self._good_until = began + COUNT_AGAIN_AFTER


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
