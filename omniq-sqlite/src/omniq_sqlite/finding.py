"""Looking tasks up by anything but their ids, counting them, and deleting the old ones."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import TaskFilter, TaskPage
from omniq.storage.sql.queue import DELETE_EDGES, restrictions, select_old
from omniq.storage.sql.steps import TASKS, Steps, ask, do, get, texts

from omniq_sqlite.wire import as_blob, is_named

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
        order by id {order} limit :limit)
"""
"""The first ones of each queue, from which the first of all are taken."""
_COUNT_SOME = "select count(*) from (select 1 from task indexed by {index} where {states} limit {limit})"
FEW = 20_000
"""Tasks of a state that are looked through for a name, at most; else those of the name are for the state."""

_RESTING = "select queue_name, '{0}', count(*) from task where state = '{0}' group by 1"
_DAMAGED = f"select queue_name, state, count(*) from task where {_NO_STATE} group by 1, 2"
COUNT = " union all ".join([*map(_RESTING.format, TaskState), _DAMAGED])
OLDEST = """
    with recursive rank (queue, priority) as (
        select value, (select max(priority) from task where state = 'pending' and queue_name = value)
            from json_each(:queues)
        union all select queue, (select max(priority) from task
            where state = 'pending' and queue_name = queue and priority < rank.priority)
            from rank where rank.priority is not null)
    select queue, min(run_at) from (
        select queue, (select min(run_at) from task
            where state = 'pending' and queue_name = queue and priority = rank.priority) as run_at from rank
        union all select value, (select min(run_at) from task
            where state = 'scheduled' and queue_name = value and run_at <= :now) from json_each(:queues))
    where run_at is not null group by queue
"""
"""The first task of each priority is looked up."""
_DELETE = "delete from omniq.task where id {any[ids]}"
_DELETE_NAMELESS = "delete from omniq.task where id in ({text[id]}, :id)"
_DELETE_LARGE = "delete from omniq.large_body where task_id {any[ids]}"


def find_tasks(
    where: TaskFilter,
    *,
    newest_first: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    bodies: bool = False,
) -> Steps[TaskPage]:
    """As `BaseTaskQueue.find`; the cursor is the last id."""
    after = None if cursor is None else as_blob(cursor)
    restricted, values = restrictions(where, after, newest_first=newest_first)
    ids: list[str] = []
    for scan in (yield from scans(where)):
        text = scan.sql(restricted, order="desc" if newest_first else "asc")
        ids += yield from texts(text, limit=limit + 1, **values)
    page = sorted(ids, key=as_blob, reverse=newest_first)[:limit]
    tasks = yield from get(TASKS, page, bodies=bodies)
    return TaskPage([task for task in tasks if task is not None], page[-1] if len(ids) > limit else None)


class Scan(Struct, frozen=True):
    """A walk through an index that finds tasks of some states."""

    index: str
    states: str = "true"
    by_queue: bool = False
    """Whether the index is in the order of ids within each queue only, and all queues are wanted."""

    def sql(self, restrictions: str, *, order: str) -> str:
        """SQL for the first `:limit` ids that are found, in order."""
        walk = (_SCAN_QUEUES if self.by_queue else _SCAN).format(
            index=self.index,
            states=self.states,
            restrictions=f"{self.states} and {restrictions}",
            order=order,
        )
        return f"select id from ({walk} order by id {order} limit :limit)"


def scans(where: TaskFilter) -> Steps[list[Scan]]:
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
    if where.name is not None and not (of_states and (yield from _are_few(of_states))):
        return [Scan("task_of_name", any_of)]
    return of_states or [*(_scan(state, where) for state in TaskState), Scan("task_of_no_state", _NO_STATE)]


def _scan(state: TaskState, where: TaskFilter) -> Scan:
    if state in TERMINAL:
        return Scan("task_ended", f"state = '{state}'", by_queue=where.queue_name is None)
    return Scan(f"task_{state}", f"state = '{state}'")


def _are_few(scans: Sequence[Scan]) -> Steps[bool]:
    count = 0
    for scan in scans:
        text = _COUNT_SOME.format(index=scan.index, states=scan.states, limit=FEW)
        ((found,),) = yield from ask(("integer",), text)
        count += found
    return count < FEW


def purge_tasks(older_than: float, limit: int) -> Steps[int]:
    """How many were deleted."""
    old = yield from select_old(older_than, limit)
    for id_ in old:
        if not is_named(id_):
            yield from do(_DELETE_NAMELESS, id=as_blob(id_))
    ids = [id_ for id_ in old if is_named(id_)]
    for sql in (DELETE_EDGES, _DELETE_LARGE, _DELETE):
        yield from do(sql, ids=ids)
    return len(old)
