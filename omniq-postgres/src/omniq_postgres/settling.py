"""`transition`: the one write by which tasks end, retry, go back or cancel.

A worker that ends its tasks needs one statement for the batch. Everything else is read, decided in Python and
written back where the row is still the one that was read; where it isn't, it is read and decided again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from msgspec import Struct, field
from omniq import clock
from omniq.models.state import QUEUED, TERMINAL, TaskState
from omniq.storage.records import MAX_COUNT, Change, ChangeStatus, ResultRecord, TaskRecord
from omniq.storage.rules import decide
from omniq.storage.sql.results import IF_IT_GIVES_WAY

from omniq_postgres.connection import Session
from omniq_postgres.dialect import NOW
from omniq_postgres.wire import CLOCK, IS_RUNNING, WITHOUT_BODY, arrays, task_record

END = f"""
    with {CLOCK}, given as materialized (
        select * from unnest($5::text[], $6::int[], $7::text[], $8::text[], $9::float8[], $10::bytea[])
            as given (id, epoch, worker, schedule_id, ttl, body)),
    ended as (
        update omniq.task set state = $2::text, finished_at = now, lease_until = null, unique_key = null,
            attempts = least(attempts, {MAX_COUNT}) + $3::bool::int,
            crashes = least(crashes, {MAX_COUNT}) + $4::bool::int
        from given, clock
        where task.id = given.id and task.epoch = given.epoch and {IS_RUNNING}
            and (given.worker is null or task.worker = given.worker)
        returning given.*, now),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select id, epoch, $2::text, schedule_id, now, now + ttl, body from ended where body is not null
        {IF_IT_GIVES_WAY})
    select id from ended
"""
_PARENTS = "select distinct parent from omniq.edge where parent = any($1::text[])"
_LOOK = f"select {WITHOUT_BODY}, xmin as version, {NOW} as now from omniq.task where id = any($2::text[])"
_WRITE = f"""
    with given as materialized (
        select * from unnest($2::text[], $3::xid[], $4::text[], $5::float8[], $6::float8[], $7::float8[], $8::int[],
            $9::int[], $10::float8[], $11::text[], $12::bool[], $13::text[],
            $14::int[], $15::text[], $16::text[], $17::float8[], $18::bytea[])
            as given (id, version, state, run_at, expires_at, finished_at, attempts, crashes, lease_until, worker,
                cancel_requested, unique_key, result_epoch, status, schedule_id, ttl, body)),
    written as (
        update omniq.task set state = given.state, run_at = given.run_at, expires_at = given.expires_at,
            finished_at = given.finished_at, attempts = given.attempts, crashes = given.crashes,
            lease_until = given.lease_until, worker = given.worker, cancel_requested = given.cancel_requested,
            unique_key = given.unique_key
        from given where task.id = given.id and task.xmin = given.version
        returning given.*),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select id, result_epoch, status, schedule_id, $1, $1 + ttl, body from written where body is not null
        {IF_IT_GIVES_WAY})
    select id from written
"""
_WRITTEN = (
    *("id", "state", "run_at", "expires_at", "finished_at", "attempts", "crashes"),
    *("lease_until", "worker", "cancel_requested", "unique"),
)
_NO_RESULT = ResultRecord(task_id="", epoch=0, status=TaskState.SUCCESS, body=b"")

Outcome: TypeAlias = tuple[TaskState, bool, bool]
"""The state in which tasks end, whether an attempt is charged and whether a crash."""


class Settled(Struct):
    """What came of a batch of changes."""

    statuses: dict[str, ChangeStatus] = field(default_factory=dict)
    """By the ids of the tasks."""
    due: dict[str, float] = field(default_factory=dict)
    """The queues to which tasks went back, and in how many seconds the first of those is due."""
    ended: list[str] = field(default_factory=list)
    """The tasks that have got results."""

    def note(self, changes: Sequence[Change], applied: Collection[str]) -> None:
        """Take down those of the changes that are of the tasks `applied`."""
        done = [change for change in changes if change.task_id in applied]
        self.statuses |= {change.task_id: ChangeStatus.APPLIED for change in done}
        self.ended += [change.task_id for change in done if change.result is not None]


async def settle(session: Session, changes: Sequence[Change]) -> Settled:
    """Apply the changes whose conditions hold."""
    settled = Settled()
    plain: defaultdict[Outcome, list[Change]] = defaultdict(list)
    for change in changes:
        if _is_plain_end(change):
            plain[change.to, change.attempted, change.crashed].append(change)
    for outcome, ends in plain.items():
        settled.note(ends, await _end(session, outcome, ends))
    await _settle_others(session, [change for change in changes if change.task_id not in settled.statuses], settled)
    return settled


async def with_children(session: Session, ids: Sequence[str]) -> set[str]:
    """Those of the tasks that have children.

    To be asked once an end is committed. Whoever adds a child commits that first and looks at its parents then: so
    one of the two sees the other.
    """
    return {row[0] for row in await session.fetch(_PARENTS, ids)}


def _is_plain_end(change: Change) -> bool:
    """Whether it ends a running task, with a result that says the same: one statement can decide that."""
    result = change.result
    return (
        change.from_states == (TaskState.RUNNING,)
        and change.to in TERMINAL
        and change.epoch is not None
        and change.delay is None
        and not (change.fresh or change.if_expired or change.request_cancel)
        and (result is None or (result.status is change.to and result.epoch == change.epoch))
    )


async def _end(session: Session, outcome: Outcome, changes: list[Change]) -> set[str]:
    """The tasks that could be ended at once."""
    changes.sort(key=attrgetter("task_id"))  # those who lock rows in one order don't lock each other out
    keys = arrays(changes, "task_id", "epoch", "worker")
    results = arrays([change.result or _NO_RESULT for change in changes], "schedule_id", "ttl")
    rows = await session.fetch(END, clock.offset(), *outcome, *keys, *results, _bodies(changes))
    return {row[0] for row in rows}


def _bodies(changes: Sequence[Change]) -> list[bytes | None]:
    return [None if change.result is None else change.result.body for change in changes]


class _Decided(NamedTuple):
    """A change that is to be applied to a task as it was read."""

    change: Change
    record: TaskRecord
    version: int
    now: float


async def _settle_others(session: Session, changes: Sequence[Change], settled: Settled) -> None:
    """Read, decide and write, until nobody has come in between."""
    left = sorted(changes, key=attrgetter("task_id"))
    while left:
        decided = await _decide(session, left, settled)
        written = await _write(session, decided) if decided else set()
        settled.note([change for change, *_ in decided], written)
        for change, record, _, now in decided:
            if change.task_id in written and record.state in QUEUED:
                seconds = record.run_at - now
                settled.due[record.queue_name] = min(seconds, settled.due.get(record.queue_name, seconds))
        left = [change for change, *_ in decided if change.task_id not in written]


async def _decide(session: Session, changes: Sequence[Change], settled: Settled) -> list[_Decided]:
    """What is to be written; what becomes of the other changes is told in `settled`."""
    rows = await session.fetch(_LOOK, clock.offset(), [change.task_id for change in changes])
    found = {row["id"]: row for row in rows}
    decided = []
    for change in changes:
        row = found.get(change.task_id)
        status, record = (ChangeStatus.MISSING, None) if row is None else decide(task_record(row), change, row["now"])
        if row is not None and record is not None:
            decided.append(_Decided(change, record, row["version"], row["now"]))
        else:
            settled.statuses[change.task_id] = status
    return decided


async def _write(session: Session, decided: Sequence[_Decided]) -> set[str]:
    """The tasks that were written, since nobody else has done it after they were read."""
    changes, records, versions, times = zip(*decided, strict=True)
    ids, *columns = arrays(records, *_WRITTEN)
    results = arrays([change.result or _NO_RESULT for change in changes], "epoch", "status", "schedule_id", "ttl")
    rows = await session.fetch(_WRITE, times[0], ids, versions, *columns, *results, _bodies(changes))
    return {row[0] for row in rows}
