"""Handing out tasks, keeping them, and taking them back from the dead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

from omniq import clock
from omniq.batching import MAX_BYTES
from omniq.storage.records import MAX_COUNT, Lease, LeaseStatus, TaskRecord
from omniq.storage.sql.claiming import Bookmarks, holding
from omniq.storage.sql.steps import MEND, Given, ask, do, kinds, mended

from omniq_postgres.connection import Session
from omniq_postgres.dialect import CLOCK, COLUMNS, IS_RUNNING, carry_out, task_record

MIN_PROMOTED = 200
"""SCHEDULED tasks of each queue that one claim makes PENDING, however few it is asked for: else twice as many."""

CLAIM = f"""
    with {CLOCK},
    scheduled as materialized (
        select min(first.run_at) as next_run
        from unnest($2::text[]) as queue (name) cross join lateral (
            select run_at from omniq.task where state = 'scheduled' and queue_name = queue.name
                and run_at < 'infinity' order by run_at limit 1) as first
        where queue.name <> all (array(select queue_name from omniq.paused_queue))),
    first as (
        select next.ctid, next.size
        from unnest($2::text[], $3::int[], $4::float8[], $5::text[])
            with ordinality as queue (name, rank, run_at, id, place) cross join lateral (
            select ctid, octet_length(body) as size from omniq.task
            where state = 'pending' and queue_name = queue.name
                and ((-priority::integer), run_at, id) > (queue.rank, queue.run_at, queue.id)
            order by (-priority::integer), run_at, id limit $6 for no key update skip locked) as next
        where queue.name <> all (array(select queue_name from omniq.paused_queue))
            and ($7 or coalesce((select next_run > now from scheduled, clock), true))
        order by queue.place limit $6),
    due as (
        select ctid from (select ctid, size, sum(size) over (rows unbounded preceding) as total from first) as first
        where total <= {MAX_BYTES} or total = size),
    walked as materialized (
        select extract(epoch from clock_timestamp())::float8 + $1::float8 - now as took
        from clock left join (select from due limit 1) as first on true),
    claimed as (
        update omniq.task set state = 'running', epoch = least(epoch, {MAX_COUNT}) + 1, claimed_at = now,
            lease_until = now + $8::float8, worker = $9::text
        from clock where ctid = any(array(select ctid from due))
        returning {COLUMNS})
    select claimed.*, next_run - now as until_next, took
    from clock cross join scheduled cross join walked left join claimed on true
"""
LOOK_AGAIN = 0.02
"""Seconds until a claim that came short looks again, because others were making tasks PENDING, too."""
PROMOTE = f"""
    with {CLOCK}, turn as materialized (select pg_try_advisory_xact_lock(hashtext('omniq.task'), 0) as is_mine),
    due as (
        select first.ctid
        from clock, turn, unnest($2::text[]) as queue (name) cross join lateral (
            select ctid from omniq.task
            where is_mine and state = 'scheduled' and queue_name = queue.name and run_at <= now
            order by run_at limit $3 for no key update skip locked) as first
        where queue.name <> all (array(select queue_name from omniq.paused_queue)))
    update omniq.task set state = 'pending' where ctid = any(array(select ctid from due))
"""
"""By one at a time: who looks at a row that somebody else has just made PENDING locks it, and claims pass over it."""
_MEND = f"{MEND} and state = 'running' and worker = :worker"
_HELD: Final = kinds("id text, epoch integer, worker text")
_EXTEND = f"""
    with {{given}}, free as (
        select task.ctid from given join omniq.task using (id, epoch, worker) where {IS_RUNNING}
        for no key update of task skip locked),
    extended as (
        update omniq.task set lease_until = {{now}} + :lease::float8 where ctid = any(array(select ctid from free)))
    select id, epoch, worker, task.cancel_requested, task.ctid = any(array(select ctid from free)) as extended
    from given join omniq.task using (id, epoch, worker) where {IS_RUNNING} order by id
"""


class Claimed(list[TaskRecord]):
    """The tasks claimed, in the order of the claim."""

    until_next: float | None = None
    """Seconds until there may be more to claim, because a SCHEDULED task comes due or others promote some; zero or less
    where more are due than were promoted."""


async def claim(
    session: Session, queues: Sequence[str], limit: int, lease: float, worker: str, bookmarks: Bookmarks
) -> Claimed:
    """Claim; where SCHEDULED tasks have come due, those take their places in line first."""
    queues = await carry_out(session, partial(holding, queues))
    if not queues:
        return Claimed()
    begin = bookmarks.start(queues)
    ranks, run_ats, ids = zip(*begin, strict=True)
    claim = partial(session.fetch, CLAIM, clock.offset(), queues, ranks, run_ats, ids, limit)
    rows = await claim(False, lease, worker)
    has_come_due = rows[0]["until_next"] is not None and rows[0]["until_next"] <= 0
    if has_come_due:
        await session.fetch(PROMOTE, clock.offset(), queues, max(2 * limit, MIN_PROMOTED))
        rows = await claim(True, lease, worker)
    claimed = Claimed(task_record(row) for row in rows if row["id"] is not None)
    claimed.until_next = LOOK_AGAIN if has_come_due and len(claimed) < limit else rows[0]["until_next"]
    order = {queue: place for place, queue in enumerate(queues)}
    for task in claimed:
        if task.damage is not None:
            await carry_out(session, partial(do, _MEND, **mended(task)))
    claimed.sort(key=lambda task: (order[task.queue_name], -task.priority, task.run_at, task.id))
    bookmarks.note(claimed, begin, rows[0]["took"])
    return claimed


LOCK_PAUSES = (0.01, 0.05, 0.2, 0.5)
"""Seconds between two attempts to extend a lease whose row somebody else has locked."""


async def extend(session: Session, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
    """What was found of each lease.

    Whoever ends or reaps a task locks its row for a moment. One that stays locked is somebody's at a prompt: that
    lease isn't lost, and the others don't wait for it.
    """
    cancels: dict[Lease, bool] = {}
    left = sorted(leases, key=attrgetter("task_id"))  # who locks rows in one order locks nobody out
    for pause in (*LOCK_PAUSES, 0.0):
        given = Given.of(_HELD, left, id=[held.task_id for held in left])
        rows: list[Any] = await carry_out(session, partial(ask, (), _EXTEND, given, lease=lease))
        cancels = {key: cancel for key, cancel in cancels.items() if key not in left}
        cancels |= {Lease(*row[:3]): row["cancel_requested"] for row in rows}
        left = [Lease(*row[:3]) for row in rows if not row["extended"]]
        if not left:
            break
        await asyncio.sleep(pause)
    return [LeaseStatus(lease in cancels, cancels.get(lease, False)) for lease in leases]
