"""Storing new tasks and their edges to their parents."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from omniq import clock
from omniq.storage.records import DUPLICATE, NEW, UNKNOWN_PARENT, Added, NewTask

from omniq_postgres.connection import Session
from omniq_postgres.wire import CLOCK, array_literal

COPY_FROM = 50
"""Tasks from which on COPY is faster."""
COPIED = ("id", "queue_name", "priority", "schedule_id", "name", "body")

INSERT = f"""
    with {CLOCK}, given as (
        select u.*, now, coalesce(given_run_at, now + delay) as run_at
        from clock, unnest($2::text[], $3::text[], $4::smallint[], $5::float8[], $6::float8[], $7::float8[],
            $8::text[], $9::text[], $10::text[], $11::bytea[])
            as u (id, queue_name, priority, given_run_at, delay, ttl, schedule_id, depends_on, name, body)),
    added as (
        insert into omniq.task (id, queue_name, state, priority, created_at, run_at, expires_at, schedule_id,
            depends_on, name, body)
        select id, queue_name,
            case when depends_on is not null then 'waiting' when run_at <= now then 'pending' else 'scheduled' end,
            priority, now, run_at, run_at + ttl, schedule_id, depends_on::text[], name, body
        from given
        on conflict (id) do nothing
        returning id, depends_on),
    edges as (
        insert into omniq.edge (parent, child)
        select distinct unnest(depends_on), id from added where depends_on is not null
        on conflict do nothing)
    select id from added
"""
_KEEP_PARENTS = "select id from omniq.task where id = any($1::text[]) order by id for key share"
_EXISTING = "select id from omniq.task where id = any($1::text[])"


async def copy_tasks(session: Session, tasks: Sequence[NewTask]) -> bool:
    """Add tasks that are due now and have no parents, twice as fast; False if one is there already, and adds none."""
    rows = [(task.id, task.queue_name, task.priority, task.schedule_id, task.name, task.body) for task in tasks]
    try:
        await session.connection.copy_records_to_table("task", schema_name=session.schema, columns=COPIED, records=rows)
    except asyncpg.UniqueViolationError:
        return False
    return True


def can_copy(tasks: Sequence[NewTask]) -> bool:
    """Whether `copy_tasks` will do: what COPY doesn't bring, the table's defaults must."""
    return len(tasks) >= COPY_FROM and clock.offset() == 0 and all(map(_is_due_now, tasks))


def _is_due_now(task: NewTask) -> bool:
    return task.run_at is None and task.delay == 0 and task.ttl is None and not task.depends_on


async def add_tasks(session: Session, tasks: Sequence[NewTask]) -> list[Added]:
    """What became of each task."""
    if not any(task.depends_on for task in tasks):
        return _verdicts(tasks, await _insert(session, tasks))
    async with session.connection.transaction():
        return await _add_family(session, tasks)


async def _add_family(session: Session, tasks: Sequence[NewTask]) -> list[Added]:
    """Add tasks of which some have parents.

    Until the transaction ends, the parents can't be purged, but they can be claimed, renewed and ended: a caller
    may have its transaction open for long.
    """
    parents = {parent for task in tasks for parent in task.depends_on}
    known = {row[0] for row in await session.fetch(_KEEP_PARENTS, list(parents))}
    known |= {row[0] for row in await session.fetch(_EXISTING, [task.id for task in tasks])}
    verdicts = _judge(tasks, known)
    fresh = [task for task, verdict in zip(tasks, verdicts, strict=True) if verdict is NEW]
    added = await _insert(session, fresh)
    lost = {task.id for task in fresh} - added  # to somebody who added the same id in the meantime
    return [
        DUPLICATE if verdict is NEW and task.id in lost else verdict
        for task, verdict in zip(tasks, verdicts, strict=True)
    ]


def _judge(tasks: Sequence[NewTask], known: set[str]) -> list[Added]:
    """What becomes of each task; `known` grows by the new ones."""
    verdicts = []
    for task in tasks:
        if task.id in known:
            verdicts.append(DUPLICATE)
        elif not known.issuperset(task.depends_on):
            verdicts.append(UNKNOWN_PARENT)
        else:
            known.add(task.id)
            verdicts.append(NEW)
    return verdicts


async def _insert(session: Session, tasks: Sequence[NewTask]) -> set[str]:
    """The ids that weren't there yet; of an id that comes twice, the first task is stored."""
    rows = await session.fetch(
        INSERT,
        clock.offset(),
        [task.id for task in tasks],
        [task.queue_name for task in tasks],
        [task.priority for task in tasks],
        [task.run_at for task in tasks],
        [task.delay for task in tasks],
        [task.ttl for task in tasks],
        [task.schedule_id for task in tasks],
        [array_literal(task.depends_on) for task in tasks],
        [task.name for task in tasks],
        [task.body for task in tasks],
    )
    return {row[0] for row in rows}


def _verdicts(tasks: Sequence[NewTask], added: set[str]) -> list[Added]:
    """NEW for the first task of each id that was added, DUPLICATE for the rest."""
    if len(added) == len(tasks):
        return [NEW] * len(tasks)
    left = set(added)
    verdicts = []
    for task in tasks:
        verdicts.append(NEW if task.id in left else DUPLICATE)
        left.discard(task.id)
    return verdicts


def due_in(tasks: Sequence[NewTask], added: Sequence[Added]) -> dict[str, float]:
    """The queues that got tasks, and in about how many seconds the first of those is due."""
    due: dict[str, float] = {}
    now = clock.now()
    for task, verdict in zip(tasks, added, strict=True):
        if verdict is NEW and not task.depends_on:
            seconds = task.delay if task.run_at is None else task.run_at - now
            due[task.queue_name] = min(seconds, due.get(task.queue_name, seconds))
    return due
