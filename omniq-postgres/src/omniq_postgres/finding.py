"""Looking tasks up by anything but their ids, counting them, and deleting the old ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.damage import state_of
from omniq.storage.records import QueueStats, TaskFilter, TaskPage

from omniq_postgres.connection import Session
from omniq_postgres.wire import COLUMNS, NOW, NOW_AT, WITHOUT_BODY, conditions, task_record

FIND = "select {columns} from omniq.task where {where} order by id limit {limit}"
FIND_EXPIRED = """
    with task as materialized (
        select {columns} from omniq.task
        where state in ('pending', 'scheduled', 'waiting') and {where})
    select * from task order by id limit {limit}
"""
"""Materialized, so that nobody walks all ids in their order to find that none of them has expired."""

COUNT = """
    select queue_name, 'pending' as state, count(*) from omniq.task where state = 'pending' group by queue_name
    union all
    select queue_name, 'scheduled', count(*) from omniq.task where state = 'scheduled' group by queue_name
    union all
    select queue_name, 'waiting', count(*) from omniq.task where state = 'waiting' group by queue_name
    union all
    select queue_name, 'running', count(*) from omniq.task where state = 'running' group by queue_name
    union all
    select queue_name, state, count(*) from omniq.task where finished_at is not null group by queue_name, state
"""
_PAUSED = "select queue_name from omniq.paused_queue"
_CHILDREN = "select parent, child from omniq.edge where parent = any($1::text[]) order by parent, child"

_NOT_AWAITED = """
    not exists (
        select from omniq.edge join omniq.task as child on child.id = edge.child
        where edge.parent = task.id and child.state = 'waiting')
"""
SELECT_OLD = f"""
    select id from omniq.task where finished_at <= {NOW} - $2::float8 and {_NOT_AWAITED}
    order by finished_at limit $3 for update skip locked
"""
_DELETE = f"delete from omniq.task where id = any($1::text[]) and {_NOT_AWAITED} returning id"
_DELETE_EDGES = "delete from omniq.edge where parent = any($1::text[]) or child = any($1::text[])"


async def find_tasks(
    session: Session, where: TaskFilter, limit: int, cursor: str | None, *, bodies: bool = False
) -> TaskPage:
    """A page in the order of the ids; the cursor is the last id."""
    restrictions, values = conditions(
        {
            f"expires_at <= {NOW_AT}": clock.offset() if where.expired else None,
            "id > {}": cursor,
            "queue_name = {}": where.queue_name,
            "schedule_id = {}": where.schedule_id,
        }
    )
    sql = FIND_EXPIRED if where.expired else FIND
    sql = sql.format(
        columns=COLUMNS if bodies else WITHOUT_BODY,
        where=f"{restrictions} and {_any_of(where.states)}",
        limit=f"${len(values) + 1}",
    )
    tasks = [task_record(row) for row in await session.fetch(sql, *values, limit + 1)]
    page = tasks[:limit]
    return TaskPage(page, page[-1].id if page and len(tasks) > limit else None)


def _any_of(states: Sequence[TaskState]) -> str:
    """Spelled out, so that the server sees which index serves."""
    listed = ", ".join(f"'{state}'" for state in states)
    return f"state in ({listed})" if states else "true"


async def count_tasks(session: Session) -> list[QueueStats]:
    """Every queue that holds tasks or is paused, by name."""
    paused = {row[0] for row in await session.fetch(_PAUSED)}
    counts: defaultdict[str, dict[TaskState, int]] = defaultdict(dict, {name: {} for name in paused})
    for name, state, count in await session.fetch(COUNT):
        counts[name][state_of(state)] = counts[name].get(state_of(state), 0) + count
    return [QueueStats(name=name, paused=name in paused, counts=counts[name]) for name in sorted(counts)]


async def fetch_children(session: Session, ids: Sequence[str]) -> dict[str, list[str]]:
    """The children of those tasks that have any."""
    children: defaultdict[str, list[str]] = defaultdict(list)
    for parent, child in await session.fetch(_CHILDREN, ids):
        children[parent].append(child)
    return children


async def purge_tasks(session: Session, older_than: float, limit: int) -> int:
    """How many were deleted.

    The rows are locked first and looked at again then: a child may have been added since they were chosen.
    """
    async with session.connection.transaction():
        old = [row[0] for row in await session.fetch(SELECT_OLD, clock.offset(), older_than, limit)]
        if not old:
            return 0
        gone = [row[0] for row in await session.fetch(_DELETE, old)]
        await session.fetch(_DELETE_EDGES, gone)
        return len(gone)
