"""Reading tasks, by their ids or by anything else, counting them, and deleting the old ones."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from omniq import clock
from omniq.models.state import TERMINAL, TaskState
from omniq.storage.damage import state_of
from omniq.storage.records import MAX_TIME, QueueStats, TaskFilter, TaskPage, TaskRecord
from omniq.storage.rules import queue_stats
from omniq.storage.sql.schedules import forget_workers

from omniq_postgres.connection import Session
from omniq_postgres.dialect import NOW, NOW_AT, carry_out
from omniq_postgres.wire import COLUMNS, WITHOUT_BODY, conditions, task_record

_GET = "select {columns} from omniq.task where id = any($1::text[])"
_CHILDREN = "select parent, child from omniq.edge where parent = any($1::text[]) order by parent, child"

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

COUNT = f"""
    select queue_name, 'pending' as state, count(*) from omniq.task where state = 'pending' group by queue_name
    union all
    select queue_name, 'scheduled', count(*) from omniq.task where state = 'scheduled' group by queue_name
    union all
    select queue_name, 'waiting', count(*) from omniq.task where state = 'waiting' group by queue_name
    union all
    select queue_name, 'running', count(*) from omniq.task where state = 'running' group by queue_name
    union all
    select queue_name, state, count(*) from omniq.task
        where finished_at is not null and not ({_NO_STATE}) group by queue_name, state
    union all
    select queue_name, state, count(*) from omniq.task where {_NO_STATE} group by queue_name, state
"""
_FIRST_OF_RANK = """
    select queue_name, (-priority::integer) as rank, run_at from omniq.task where state = 'pending' {after}
    order by queue_name, (-priority::integer), run_at, id limit 1
"""
_FIRST_DELAYED = """
    select queue_name, run_at from omniq.task where state = 'scheduled' {after} order by queue_name, run_at limit 1
"""
_OLDEST_DUE = f"""
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
        select queue_name, run_at from scheduled where run_at <= {NOW}) as due
    group by queue_name
"""
_PAUSED = "select queue_name from omniq.paused_queue"

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

Count: TypeAlias = tuple[str, TaskState, int]
"""How many tasks of a queue are in a state."""


async def get(session: Session, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
    rows = await session.fetch(_GET.format(columns=COLUMNS if bodies else WITHOUT_BODY), ids)
    found = {record.id: record for record in map(task_record, rows)}
    return [found.get(id_) for id_ in ids]


async def children(session: Session, ids: Sequence[str]) -> list[list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for parent, child in await session.fetch(_CHILDREN, ids):
        found[parent].append(child)
    return [found[id_] for id_ in ids]


async def find(
    session: Session,
    where: TaskFilter,
    *,
    newest_first: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    bodies: bool = False,
) -> TaskPage:
    """The cursor is the last id."""
    restrictions, values = conditions(
        {
            f"expires_at <= {NOW_AT}": clock.offset() if where.expired else None,
            "id < {}" if newest_first else "id > {}": cursor,
            "queue_name = {}": where.queue_name,
            "name = {}": where.name,
            "schedule_id = {}": where.schedule_id,
        }
    )
    words = {
        "columns": COLUMNS if bodies else WITHOUT_BODY,
        "where": restrictions,
        "way": "desc" if newest_first else "asc",
        "limit": f"${len(values) + 1}",
    }
    rows = await session.fetch(_statement(where, words), *values, limit + 1)
    tasks = [task_record(row) for row in rows[:limit]]
    return TaskPage(tasks, tasks[-1].id if len(rows) > limit else None)


def _statement(where: TaskFilter, words: dict[str, str]) -> str:
    """SQL in which the states are spelled out, so that the server sees which index serves."""
    if where.expired:
        states = ", ".join(f"'{state}'" for state in where.states or TaskState)
        return _EXPIRED.format(**words | {"where": f"state in ({states}) and {words['where']}"})
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


class Counts:
    """How many tasks there are, from `stats` to `stats`: many aren't counted again at once.

    Counting reads the entry of each task in an index. Were that done in each transaction instead, those who write
    would wait for each other.
    """

    SLOW = 0.02
    """Seconds of counting from which on its outcome is remembered,"""
    WORTH = 20
    """so many times as long,"""
    STALE_AFTER = 3.0
    """but for no more than so many seconds."""

    def __init__(self) -> None:
        self._counts: list[Count] = []
        self._good_until = 0.0

    async def stats(self, session: Session) -> list[QueueStats]:
        """The statistics of all queues."""
        began = time.monotonic()
        if began >= self._good_until:
            rows = await session.fetch(COUNT)
            self._counts = [(name, state_of(state), count) for name, state, count in rows]
            took = time.monotonic() - began
            self._good_until = began + (min(self.WORTH * took, self.STALE_AFTER) if took > self.SLOW else 0.0)
        oldest = {name: _time(run_at) for name, run_at in await session.fetch(_OLDEST_DUE, clock.offset())}
        return queue_stats(self._counts, [row[0] for row in await session.fetch(_PAUSED)], oldest)


def _time(run_at: float) -> float:
    """The time; of a damaged task its stand-in."""
    return run_at if abs(run_at) <= MAX_TIME else 0.0


async def purge(session: Session, *, older_than: float, limit: int = 1000) -> int:
    """How many tasks were deleted.

    The rows are locked first and looked at again then: a child may have been added since they were chosen.
    """
    await carry_out(session, partial(forget_workers, older_than))
    async with session.connection.transaction():
        old = [row[0] for row in await session.fetch(SELECT_OLD, clock.offset(), older_than, limit)]
        if not old:
            return 0
        gone = [row[0] for row in await session.fetch(_DELETE, old)]
        await session.fetch(_DELETE_EDGES, gone)
        return len(gone)
