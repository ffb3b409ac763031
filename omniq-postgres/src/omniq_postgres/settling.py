"""`transition`: the one write by which tasks end, retry, go back or cancel.

A worker that ends its tasks needs one statement for the batch. Everything else is read, decided in Python and
written back where the row is still the one that was read; where it isn't, it is read and decided again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import TypeAlias

from msgspec import Struct, field
from omniq import clock
from omniq.models.state import TERMINAL, TaskState
from omniq.storage.records import MAX_COUNT, Change, ChangeStatus, ResultRecord, TaskRecord
from omniq.storage.rules import decide

from omniq_postgres.connection import Session
from omniq_postgres.results import UNLESS_NEWER
from omniq_postgres.wire import CLOCK, IS_RUNNING, NOW, task_record

END = f"""
    with {CLOCK}, given as materialized (
        select * from unnest($5::text[], $6::int[], $7::text[], $8::text[], $9::float8[], $10::bytea[])
            as given (id, epoch, worker, schedule_id, ttl, body)),
    ended as (
        update omniq.task set state = $2::text, finished_at = now, lease_until = null,
            attempts = least(attempts, {MAX_COUNT}) + $3::bool::int,
            crashes = least(crashes, {MAX_COUNT}) + $4::bool::int
        from given, clock
        where task.id = given.id and task.epoch = given.epoch and {IS_RUNNING}
            and (given.worker is null or task.worker = given.worker)
        returning given.*, now),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select id, epoch, $2::text, schedule_id, now, now + ttl, body from ended where body is not null
        {UNLESS_NEWER})
    select id from ended
"""
_PARENTS = "select distinct parent from omniq.edge where parent = any($1::text[])"
_LOOK = f"""
    select id, queue_name, state, run_at, expires_at, finished_at, epoch, attempts, crashes, lease_until, worker,
        cancel_requested, 0 as priority, 0.0::float8 as created_at, ''::bytea as body, xmin as version, {NOW} as now
    from omniq.task where id = any($2::text[])
"""
_WRITE = f"""
    with given as materialized (
        select * from unnest($2::text[], $3::xid[], $4::text[], $5::float8[], $6::float8[], $7::float8[], $8::int[],
            $9::int[], $10::float8[], $11::text[], $12::bool[],
            $13::int[], $14::text[], $15::text[], $16::float8[], $17::bytea[])
            as given (id, version, state, run_at, expires_at, finished_at, attempts, crashes, lease_until, worker,
                cancel_requested, result_epoch, status, schedule_id, ttl, body)),
    written as (
        update omniq.task set state = given.state, run_at = given.run_at, expires_at = given.expires_at,
            finished_at = given.finished_at, attempts = given.attempts, crashes = given.crashes,
            lease_until = given.lease_until, worker = given.worker, cancel_requested = given.cancel_requested
        from given where task.id = given.id and task.xmin = given.version
        returning given.*),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select id, result_epoch, status, schedule_id, $1, $1 + ttl, body from written where body is not null
        {UNLESS_NEWER})
    select id from written
"""
_RUNNING = (TaskState.RUNNING,)
_NO_RESULT = ResultRecord(task_id="", epoch=0, status=TaskState.SUCCESS, body=b"")

Outcome: TypeAlias = tuple[TaskState, bool, bool]
"""The state in which tasks end, whether an attempt is charged and whether a crash."""


class Settled(Struct):
    """What came of a batch of changes."""

    statuses: list[ChangeStatus] = field(default_factory=list)
    due: dict[str, float] = field(default_factory=dict)
    """The queues to which tasks went back, and in how many seconds the first of those is due."""
    ended: list[str] = field(default_factory=list)
    """The tasks that have got results."""


class _Seen(Struct):
    """Tasks as they were read, and what has been decided of them since."""

    now: float
    records: dict[str, TaskRecord]
    versions: dict[str, int]
    changed: dict[str, TaskRecord] = field(default_factory=dict)
    results: dict[str, ResultRecord] = field(default_factory=dict)


async def settle(session: Session, changes: Sequence[Change]) -> Settled:
    """Apply the changes whose conditions hold; several of one task in their order."""
    settled = Settled()
    done: set[str] = set()
    for outcome, ends in _plain_ends(changes).items():
        done |= await _end(session, outcome, ends, settled)
    others = [change for change in changes if change.task_id not in done]
    statuses = iter(await _settle_others(session, others, settled))
    applied = ChangeStatus.APPLIED
    settled.statuses = [applied if change.task_id in done else next(statuses) for change in changes]
    return settled


async def with_children(session: Session, ids: Sequence[str]) -> set[str]:
    """Those of the tasks that have children.

    To be asked once an end is committed. Whoever adds a child commits that first and looks at its parents then: so
    one of the two sees the other.
    """
    return {row[0] for row in await session.fetch(_PARENTS, ids)}


# ── ends by those who hold the task ──────────────────────────────────────────


def _plain_ends(changes: Sequence[Change]) -> dict[Outcome, list[Change]]:
    """The changes that one statement for each outcome can decide: of tasks with only one change, by outcome."""
    times = Counter([change.task_id for change in changes])
    plain: defaultdict[Outcome, list[Change]] = defaultdict(list)
    for change in changes:
        if _is_plain_end(change) and times[change.task_id] == 1:
            plain[change.to, change.attempted, change.crashed].append(change)
    return plain


def _is_plain_end(change: Change) -> bool:
    """Whether it ends a running task, with a result that says the same."""
    result = change.result
    return (
        change.from_states == _RUNNING
        and change.to in TERMINAL
        and change.epoch is not None
        and change.delay is None
        and not (change.fresh or change.if_expired or change.request_cancel)
        and (result is None or (result.status is change.to and result.epoch == change.epoch))
    )


async def _end(session: Session, outcome: Outcome, changes: list[Change], settled: Settled) -> set[str]:
    """The tasks that could be ended at once."""
    changes.sort(key=_task_id)  # those who lock rows in one order don't lock each other out
    results = [change.result or _NO_RESULT for change in changes]
    rows = await session.fetch(
        END,
        clock.offset(),
        *outcome,
        [change.task_id for change in changes],
        [change.epoch for change in changes],
        [change.worker for change in changes],
        [result.schedule_id for result in results],
        [result.ttl for result in results],
        _bodies(results),
    )
    done = {row[0] for row in rows}
    settled.ended += [result.task_id for result in results if result.task_id in done]
    return done


def _bodies(results: Sequence[ResultRecord]) -> list[bytes | None]:
    return [None if result is _NO_RESULT else result.body for result in results]


def _task_id(change: Change) -> str:
    return change.task_id


# ── everything else ──────────────────────────────────────────────────────────


async def _settle_others(session: Session, changes: Sequence[Change], settled: Settled) -> list[ChangeStatus]:
    statuses: dict[int, ChangeStatus] = {}
    left = list(enumerate(changes))
    while left:
        seen = await _look(session, {change.task_id for _, change in left})
        decided = {index: _decide(seen, change) for index, change in left}
        stale = await _write(session, seen)
        statuses |= {index: decided[index] for index, change in left if change.task_id not in stale}
        _note(settled, seen, stale)
        left = [(index, change) for index, change in left if change.task_id in stale]
    return [statuses[index] for index in range(len(changes))]


async def _look(session: Session, ids: Collection[str]) -> _Seen:
    rows = await session.fetch(_LOOK, clock.offset(), list(ids))
    return _Seen(
        now=rows[0]["now"] if rows else 0.0,
        records={row["id"]: task_record(row) for row in rows},
        versions={row["id"]: row["version"] for row in rows},
    )


def _decide(seen: _Seen, change: Change) -> ChangeStatus:
    """Decide the change; the next one of the same task sees its effect."""
    status, record = decide(seen.records.get(change.task_id), change, seen.now)
    if record is not None:
        seen.records[record.id] = seen.changed[record.id] = record
        result = change.result
        if result is not None and result.epoch >= seen.results.get(record.id, result).epoch:
            seen.results[record.id] = result
    return status


async def _write(session: Session, seen: _Seen) -> set[str]:
    """Write what was decided; the ids of the tasks that somebody else has written since they were read."""
    if not seen.changed:
        return set()
    records = [seen.changed[id_] for id_ in sorted(seen.changed)]
    results = [seen.results.get(record.id, _NO_RESULT) for record in records]
    rows = await session.fetch(
        _WRITE,
        seen.now,
        [record.id for record in records],
        [seen.versions[record.id] for record in records],
        [record.state for record in records],
        [record.run_at for record in records],
        [record.expires_at for record in records],
        [record.finished_at for record in records],
        [record.attempts for record in records],
        [record.crashes for record in records],
        [record.lease_until for record in records],
        [record.worker for record in records],
        [record.cancel_requested for record in records],
        [result.epoch for result in results],
        [result.status for result in results],
        [result.schedule_id for result in results],
        [result.ttl for result in results],
        _bodies(results),
    )
    return seen.changed.keys() - {row[0] for row in rows}


def _note(settled: Settled, seen: _Seen, stale: Collection[str]) -> None:
    """What those who wait may want to know."""
    settled.ended += [id_ for id_ in seen.results if id_ not in stale]
    for record in seen.changed.values():
        if record.id not in stale and record.state in (TaskState.PENDING, TaskState.SCHEDULED):
            seconds = record.run_at - seen.now
            settled.due[record.queue_name] = min(seconds, settled.due.get(record.queue_name, seconds))
