"""The verbs of the contract as SQL that only PostgreSQL has: claiming, settling, finding."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

from omniq import clock
from omniq.batching import MAX_BYTES
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import MAX_COUNT, Change, Lease, LeaseStatus, ResultRecord, TaskFilter, TaskPage, TaskRecord
from omniq.storage.sql import MEND, TASKS, Given, Steps, ask, claiming, do, kinds, mended, select, texts
from omniq.storage.sql.claiming import SET_CHANGED, Decided, Ending, ScanPositions, Seen, Settled, changed, holding
from omniq.storage.sql.queue import DELETE_EDGES, NOT_AWAITED, restrictions, select_ended, select_old
from omniq.storage.sql.results import IF_IT_GIVES_WAY, NEW

from omniq_postgres.dialect import CLOCK, COLUMNS, IS_RUNNING, WITHOUT_BODY, Session, carry_out, task_record

# ── claiming ────────────────────────────────────────────────────────────────


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
    session: Session, queues: Sequence[str], limit: int, lease: float, worker: str, positions: ScanPositions
) -> Claimed:
    """Claim; where SCHEDULED tasks have come due, those take their places in line first."""
    queues = await carry_out(session, partial(holding, queues))
    if not queues:
        return Claimed()
    begin = positions.start(queues)
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
    positions.note(claimed, begin, rows[0]["took"])
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


# ── settling ────────────────────────────────────────────────────────────────


END: Final = f"""
    with {{given}}, {{clock}},
    ended as (
        update omniq.task set state = :state::text, finished_at = now, lease_until = null, unique_key = null,
            attempts = least(attempts, {MAX_COUNT}) + :attempted::bool::int,
            crashes = least(crashes, {MAX_COUNT}) + :crashed::bool::int
        from given, clock
        where task.id = given.task_id and task.epoch = given.epoch and {IS_RUNNING}
            and (:worker::text is null or task.worker = :worker::text)
        returning given.*, now),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select task_id, epoch, :state::text, schedule_id, now, now + ttl, body from ended where body is not null
        {IF_IT_GIVES_WAY})
    select task_id from ended
"""
_LOOK = f"select {WITHOUT_BODY}, xmin as version, {{now}} as now from omniq.task where id {{any[ids]}}"
_VERSION: Final = kinds("version bigint")
_WRITE = f"""
    with {{given}}, written as (
        update omniq.task set {SET_CHANGED}
        from given where task.id = given.id and task.xmin::text::bigint = given.version
        returning given.*),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select id, epoch, status, schedule_id, :at, :at + ttl, body from written where body is not null
        {IF_IT_GIVES_WAY})
    select id from written
"""
_NO_RESULT = ResultRecord(task_id="", epoch=0, status=TaskState.SUCCESS, body=b"")


def settle(changes: Sequence[Change]) -> Steps[Settled]:
    """Apply the changes whose conditions hold."""
    return (yield from claiming.settle(changes, Settled(), end=_end, look=_look, write=_write))


def _end(ending: Ending, changes: Sequence[Change]) -> Steps[set[str]]:
    """The tasks that could be ended at once."""
    given = _results(changes, epoch=[change.epoch for change in changes])
    return set((yield from texts(END, given, **ending._asdict())))


def _results(changes: Sequence[Change], **columns: Sequence[Any]) -> Given:
    """The results of changes; where there is none, the body is null."""
    columns["task_id"] = [change.task_id for change in changes]
    columns["body"] = [None if change.result is None else change.result.body for change in changes]
    return Given.of(NEW, [change.result or _NO_RESULT for change in changes], **columns)


def _look(ids: Sequence[str]) -> Steps[Seen]:
    rows: list[Any] = yield from ask((), _LOOK, ids=ids)
    now = rows[0]["now"] if rows else 0.0
    return Seen({row["id"]: task_record(row) for row in rows}, now, {row["id"]: row["version"] for row in rows})


def _write(decided: Decided) -> Steps[set[str]]:
    """The tasks that were written, since nobody else has done it after they were read."""
    (_, now, versions), changes, records = decided
    given = (
        changed(records)
        .beside(Given(_VERSION, [[versions[record.id] for record in records]]))
        .beside(_results(changes))
    )
    return set((yield from texts(_WRITE, given, at=now)))


# ── finding ─────────────────────────────────────────────────────────────────


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


def purge(older_than: float, states: Collection[TaskState], limit: int) -> Steps[int]:
    """How many tasks were deleted."""
    return len((yield from _delete((yield from select_old(older_than, states, limit)))))


def delete(ids: Sequence[str], states: Collection[TaskState]) -> Steps[list[bool]]:
    """As `BaseTaskQueue.delete`."""
    gone = set((yield from _delete((yield from select_ended(ids, states)))))
    return [id_ in gone for id_ in ids]


def _delete(ids: Sequence[str]) -> Steps[list[str]]:
    """Those that were deleted of these tasks.

    Their rows have been locked and are looked at again: a child may have been added since they were chosen.
    """
    if not ids:
        return []
    gone = yield from texts(_DELETE, ids=ids)
    yield from do(DELETE_EDGES, ids=gone)
    return gone
