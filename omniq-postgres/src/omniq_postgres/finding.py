"""Looking tasks up by anything but their ids, counting them, and deleting the old ones."""

from __future__ import annotations

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import TaskFilter, TaskPage
from omniq.storage.sql.queue import DELETE_EDGES, NOT_AWAITED, restrictions, select_old
from omniq.storage.sql.steps import TASKS, Steps, do, select, texts

_PAGE = "select {columns} from omniq.task where {where} order by id {way} limit {limit}"
_EXPIRED = """
    with task as materialized (
        select {columns} from omniq.task where state in ('pending', 'scheduled', 'waiting') and {where})
    select * from task order by id {way} limit {limit}
"""
"""Materialized, so that nobody walks all ids in their order to find that none of them has expired."""
_KIND = (
    "select queue_name, name from omniq.task where finished_at is not null {after} order by queue_name, name limit 1"
)
_MERGED = f"""
    with recursive ended as (
        ({_KIND.format(after="")}) union all
        select next.* from ended cross join lateral (
            {_KIND.format(after="and (queue_name, name) > (ended.queue_name, ended.name)")}) as next)
    select * from ({{parts}}) as task order by id {{way}} limit {{limit}}
"""
"""A page of each state's tasks, made to one. `ended` are the functions of which each queue has ended tasks, found by a
walk from one to the next: ended tasks are the most, and so have a single index for all lists."""
_PART = "(select {columns} from omniq.task where state = '{state}' and {where} order by id {way} limit {limit})"
_QUEUED_PART = "(select {columns} from omniq.task where state = '{state}' and {where} offset 0)"
"""The index is in another order than that of the ids. `offset 0` keeps the server from walking all ids instead."""
_ENDED_PART = """
    (select task.* from ended cross join lateral (
        select {columns} from omniq.task
        where queue_name = ended.queue_name and name = ended.name and finished_at is not null
            and state = '{state}' and {where}
        order by id {way} limit {limit}) as task)
"""
_NO_STATE = f"state not in {tuple(map(str, TaskState))}"
_DAMAGED_PART = (
    f"(select {{columns}} from omniq.task where {_NO_STATE} and {{where}} order by id {{way}} limit {{limit}})"
)

_OF_STATE = "select queue_name, '{0}' as state, count(*) from omniq.task where state = '{0}' group by queue_name"
_OF_STATES = "select queue_name, state, count(*) from omniq.task where {} group by queue_name, state"
COUNT = " union all ".join(
    [
        *(_OF_STATE.format(state) for state in TaskState if state not in TERMINAL),
        _OF_STATES.format(f"finished_at is not null and not ({_NO_STATE})"),
        _OF_STATES.format(_NO_STATE),
    ]
)
_FIRST_OF_RANK = """
    select queue_name, (-priority::integer) as rank, run_at from omniq.task where state = 'pending' {after}
    order by queue_name, (-priority::integer), run_at, id limit 1
"""
_FIRST_DELAYED = """
    select queue_name, run_at from omniq.task where state = 'scheduled' {after} order by queue_name, run_at limit 1
"""
OLDEST_DUE = f"""
    with recursive pending as (
        ({_FIRST_OF_RANK.format(after="")}) union all
        select next.* from pending cross join lateral ({
    _FIRST_OF_RANK.format(after="and (queue_name, (-priority::integer)) > (pending.queue_name, pending.rank)")
}) as next),
    scheduled as (
        ({_FIRST_DELAYED.format(after="")}) union all
        select next.* from scheduled cross join lateral (
            {_FIRST_DELAYED.format(after="and queue_name > scheduled.queue_name")}) as next)
    select queue_name, min(run_at) from (
        select queue_name, run_at from pending union all
        select queue_name, run_at from scheduled where run_at <= {{now}}) as due
    group by queue_name
"""
_DELETE = f"delete from omniq.task as task where id {{any[ids]}} and {NOT_AWAITED} returning id"


def find(
    where: TaskFilter,
    *,
    newest_first: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    bodies: bool = False,
) -> Steps[TaskPage]:
    """As `BaseTaskQueue.find`; the cursor is the last id."""
    restricted, values = restrictions(where, cursor, newest_first=newest_first)
    text = _statement(where, restricted, "desc" if newest_first else "asc")
    page = yield from select(TASKS, text, limit=limit, bodies=bodies, **values)
    return TaskPage(page.records, page.key)


def _statement(where: TaskFilter, restricted: str, way: str) -> str:
    """SQL in which the states are spelled out, so that the server sees which index serves."""
    words = {"columns": "{columns}", "where": restricted, "way": way, "limit": ":limit"}
    if where.expired:
        states = ", ".join(f"'{state}'" for state in where.states or TaskState)
        return _EXPIRED.format(**words | {"where": f"state in ({states}) and {restricted}"})
    if not (where.states or where.queue_name or where.name or where.schedule_id):
        return _PAGE.format(**words)
    parts = [_part(state, where).format(**words, state=state) for state in where.states or TaskState]
    if not where.states:
        parts.append(_DAMAGED_PART.format(**words))
    return _MERGED.format(**words, parts=" union all ".join(parts))


def _part(state: TaskState, where: TaskFilter) -> str:
    """SQL for a page of the tasks in one state, by the index that serves it."""
    if where.schedule_id is not None or state is TaskState.WAITING:
        return _PART
    return _ENDED_PART if state in TERMINAL else _QUEUED_PART


def purge(older_than: float, limit: int) -> Steps[int]:
    """How many tasks were deleted.

    The rows are locked first and looked at again then: a child may have been added since they were chosen.
    """
    old = yield from select_old(older_than, limit)
    if not old:
        return 0
    gone = yield from texts(_DELETE, ids=old)
    yield from do(DELETE_EDGES, ids=gone)
    return len(gone)
