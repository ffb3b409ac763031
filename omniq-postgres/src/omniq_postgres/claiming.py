"""Handing out tasks, keeping them, and taking them back from the dead."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import TypeAlias

import asyncpg
from omniq import clock
from omniq.batching import MAX_BYTES
from omniq.storage.records import MAX_COUNT, MAX_LEASE, LapsedLease, Lease, LeaseStatus, TaskRecord
from omniq.storage.sql.finding import holding

from omniq_postgres.connection import Session
from omniq_postgres.dialect import NOW, carry_out
from omniq_postgres.wire import CLOCK, COLUMNS, IS_RUNNING, WITHOUT_BODY, arrays, raised, task_record

MIN_PROMOTED = 200
"""SCHEDULED tasks of each queue that one claim makes PENDING, however few it is asked for: else twice as many."""

CLAIM = f"""
    with {CLOCK},
    scheduled as materialized (
        select min(first.run_at) as next_run
        from unnest($2::text[]) as queue (name) cross join lateral (
            select run_at from omniq.task where state = 'scheduled' and queue_name = queue.name
                and run_at < 'infinity'
            order by run_at limit 1) as first
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
        update omniq.task
        set state = 'running', epoch = {raised("epoch")}, claimed_at = now, lease_until = now + $8::float8,
            worker = $9::text
        from clock where ctid = any(array(select ctid from due))
        returning {COLUMNS})
    select claimed.*, next_run - now as until_next, took
    from clock cross join scheduled cross join walked left join claimed on true
"""
PROMOTE = f"""
    with {CLOCK}, due as (
        select first.ctid
        from clock, unnest($2::text[]) as queue (name) cross join lateral (
            select ctid from omniq.task where state = 'scheduled' and queue_name = queue.name and run_at <= now
            order by run_at limit $3 for no key update) as first
        where queue.name <> all (array(select queue_name from omniq.paused_queue)))
    update omniq.task set state = 'pending' where ctid = any(array(select ctid from due))
"""
_MEND = """
    update omniq.task set priority = $3, created_at = $4, run_at = $5, expires_at = $6, finished_at = $7, epoch = $8,
        attempts = $9, crashes = $10, depends_on = $11
    where id = $1 and worker = $2 and state = 'running'
"""
_EXTEND = f"""
    with lease as materialized (
        select * from unnest($2::text[], $3::int[], $4::text[]) as lease (id, epoch, worker)),
    free as (
        select task.ctid from lease join omniq.task using (id, epoch, worker) where {IS_RUNNING}
        for no key update of task skip locked),
    extended as (
        update omniq.task set lease_until = {NOW} + $5::float8 where ctid = any(array(select ctid from free)))
    select id, epoch, worker, task.cancel_requested, task.ctid = any(array(select ctid from free)) as extended
    from lease join omniq.task using (id, epoch, worker) where {IS_RUNNING} order by id
"""
ENDLESS = f"(task.lease_until is null or task.lease_until > {NOW} + {MAX_LEASE})"
LAPSED = f"""
    (select id, epoch, coalesce(worker, '') as worker, 0.0::float8 as lease_until from omniq.task
    where state = 'running' and {ENDLESS} and (0.0, id) > ($2::float8, $3::text) order by id limit $4)
    union all
    (select id, epoch, coalesce(worker, '') as worker, lease_until from omniq.task
    where state = 'running' and lease_until <= {NOW} and (lease_until, id) > ($2::float8, $3::text)
    order by lease_until, id limit $4)
    order by lease_until, id limit $4
"""
REAP = f"""
    with seen as materialized (
        select * from unnest($2::text[], $3::int[], $4::text[], $5::float8[]) as seen (id, epoch, worker, lease_until)),
    lapsed as (
        select task.ctid, exists (
            select 1 from omniq.worker where name = task.worker and last_seen > task.lease_until) as alive
        from seen join omniq.task on task.id = seen.id and task.epoch = seen.epoch
            and coalesce(task.worker, '') = seen.worker
        where state = 'running' and (task.lease_until <= least(seen.lease_until, {NOW}) or {ENDLESS})
        for no key update of task skip locked)
    update omniq.task set state = 'pending', lease_until = null, worker = null,
        crashes = least(crashes, {MAX_COUNT}) + (not lapsed.alive)::int
    from lapsed where task.ctid = lapsed.ctid
    returning {WITHOUT_BODY}
"""

_mended = attrgetter(
    *("id", "worker", "priority", "created_at", "run_at", "expires_at", "finished_at", "epoch", "attempts", "crashes")
)

Place: TypeAlias = tuple[int, float, str]
"""A place in a queue: the negated priority, `run_at` and id."""

HEAD: Place = (-(1 << 15), -math.inf, "")


class Bookmarks:
    """Where the last claim from each queue ended, for times when the dead are many.

    The server keeps the index entries of claimed tasks for as long as any open transaction could still see them,
    and a claim that begins at the head of a queue steps over them all. While that is slow, claims begin where the
    last one ended, but for one every `PATIENCE` seconds that finds what has taken a place before.
    """

    SLOW = 0.01
    PATIENCE = 1.0

    def __init__(self) -> None:
        self._ends: dict[str, Place] = {}
        self._head_again_at = 0.0

    def start(self, queues: Sequence[str]) -> list[Place]:
        """Where a claim begins in each queue."""
        if time.monotonic() >= self._head_again_at:
            return [HEAD] * len(queues)
        return [self._ends.get(queue, HEAD) for queue in queues]

    def note(self, claimed: Sequence[TaskRecord], began: Sequence[Place], took: float) -> None:
        """A claim that began at these places took so many seconds until it had found its first task, or none."""
        if took > self.SLOW and all(place == HEAD for place in began):
            self._head_again_at = time.monotonic() + self.PATIENCE
        last = {task.queue_name: task for task in claimed}
        self._ends |= {queue: (-task.priority, task.run_at, task.id) for queue, task in last.items()}


class Claimed(list[TaskRecord]):
    """The tasks claimed, in the order of the claim."""

    until_next: float | None = None
    """Seconds until the first SCHEDULED task of the queues is due; zero or less where more are than were promoted."""


async def claim(
    session: Session, queues: Sequence[str], limit: int, lease: float, worker: str, bookmarks: Bookmarks
) -> Claimed:
    """Claim; where SCHEDULED tasks have come due, those take their places in line first."""
    queues = await carry_out(session, partial(holding, queues))
    if not queues:
        return Claimed()
    begin = bookmarks.start(queues)
    ranks, run_ats, ids = zip(*begin, strict=True)

    async def claim(*, promoted: bool) -> list[asyncpg.Record]:
        places = (queues, ranks, run_ats, ids)
        return await session.fetch(CLAIM, clock.offset(), *places, limit, promoted, lease, worker)

    rows = await claim(promoted=False)
    if rows[0]["until_next"] is not None and rows[0]["until_next"] <= 0:
        await session.fetch(PROMOTE, clock.offset(), queues, max(2 * limit, MIN_PROMOTED))
        rows = await claim(promoted=True)
    claimed = Claimed(task_record(row) for row in rows if row["id"] is not None)
    order = {queue: place for place, queue in enumerate(queues)}
    await _give_stand_ins(session, [task for task in claimed if task.damage is not None])
    claimed.sort(key=lambda task: (order[task.queue_name], -task.priority, task.run_at, task.id))
    claimed.until_next = rows[0]["until_next"]
    bookmarks.note(claimed, begin, rows[0]["took"])
    return claimed


async def _give_stand_ins(session: Session, tasks: Sequence[TaskRecord]) -> None:
    """Write the stand-ins of damaged tasks, which were claimed just now, so that they can be ended like others."""
    for task in tasks:
        await session.fetch(_MEND, *_mended(task), task.depends_on or None)


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
        rows = await session.fetch(_EXTEND, clock.offset(), *arrays(left, "task_id", "epoch", "worker"), lease)
        cancels = {key: cancel for key, cancel in cancels.items() if key not in left}
        cancels |= {Lease(*row[:3]): row["cancel_requested"] for row in rows}
        left = [Lease(*row[:3]) for row in rows if not row["extended"]]
        if not left:
            break
        await asyncio.sleep(pause)
    return [LeaseStatus(lease in cancels, cancels.get(lease, False)) for lease in leases]


async def lapsed(session: Session, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
    """Leases that have run out, in order."""
    start = (-math.inf, "") if after is None else (after.lease_until, after.task_id)
    return [LapsedLease(*row) for row in await session.fetch(LAPSED, clock.offset(), *start, limit)]


async def reap(session: Session, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
    """The tasks that were taken back."""
    seen = arrays(sorted(leases, key=attrgetter("task_id")), "task_id", "epoch", "worker", "lease_until")
    return [task_record(row) for row in await session.fetch(REAP, clock.offset(), *seen)]
