"""Writing what was decided of tasks that end, retry, go back or are cancelled.

A worker that ends its tasks needs one statement for the batch. Everything else is read, decided in Python and
written back where the row is still the one that was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, TypeAlias

from omniq.models.state import TERMINAL, TaskState
from omniq.storage.records import MAX_COUNT, Change, ResultRecord
from omniq.storage.sql import settling
from omniq.storage.sql.results import IF_IT_GIVES_WAY, NEW
from omniq.storage.sql.settling import SET_CHANGED, Decided, Seen, Settled, changed
from omniq.storage.sql.steps import Given, Steps, ask, kinds, texts

from omniq_postgres.wire import IS_RUNNING, WITHOUT_BODY, task_record

_ENDING: Final = kinds("id text, epoch integer, worker text, schedule_id text, ttl real, body bytes")
END: Final = f"""
    with {{given}}, {{clock}},
    ended as (
        update omniq.task set state = :state::text, finished_at = now, lease_until = null, unique_key = null,
            attempts = least(attempts, {MAX_COUNT}) + :attempted::bool::int,
            crashes = least(crashes, {MAX_COUNT}) + :crashed::bool::int
        from given, clock
        where task.id = given.id and task.epoch = given.epoch and {IS_RUNNING}
            and (given.worker is null or task.worker = given.worker)
        returning given.*, now),
    stored as (
        insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
        select id, epoch, :state::text, schedule_id, now, now + ttl, body from ended where body is not null
        {IF_IT_GIVES_WAY})
    select id from ended
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

Outcome: TypeAlias = tuple[TaskState, bool, bool]
"""The state in which tasks end, whether an attempt is charged and whether a crash."""


def settle(changes: Sequence[Change]) -> Steps[Settled]:
    """Apply the changes whose conditions hold."""
    settled = Settled()
    plain: defaultdict[Outcome, list[Change]] = defaultdict(list)
    for change in changes:
        if _is_plain_end(change):
            plain[change.to, change.attempted, change.crashed].append(change)
    for outcome, ends in plain.items():
        ended = yield from _end(outcome, ends)
        for change in ends:
            if change.task_id in ended:
                settled.note(change)
    left = [change for change in changes if change.task_id not in settled.statuses]
    return (yield from settling.settle(left, settled, _look, _write))


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


def _end(outcome: Outcome, changes: list[Change]) -> Steps[set[str]]:
    """The tasks that could be ended at once."""
    changes.sort(key=attrgetter("task_id"))  # those who lock rows in one order don't lock each other out
    results = _results(changes)
    ids = [change.task_id for change in changes]
    schedules = [result.schedule_id for result in results]
    given = Given.of(
        _ENDING, changes, id=ids, schedule_id=schedules, ttl=[result.ttl for result in results], body=_bodies(changes)
    )
    state, attempted, crashed = outcome
    return set((yield from texts(END, given, state=state, attempted=attempted, crashed=crashed)))


def _results(changes: Sequence[Change]) -> list[ResultRecord]:
    return [change.result or _NO_RESULT for change in changes]


def _bodies(changes: Sequence[Change]) -> list[bytes | None]:
    return [None if change.result is None else change.result.body for change in changes]


def _look(ids: Sequence[str]) -> Steps[Seen]:
    rows: list[Any] = yield from ask((), _LOOK, ids=ids)
    now = rows[0]["now"] if rows else 0.0
    return Seen({row["id"]: task_record(row) for row in rows}, now, {row["id"]: row["version"] for row in rows})


def _write(decided: Decided) -> Steps[set[str]]:
    """The tasks that were written, since nobody else has done it after they were read."""
    (_, now, versions), changes, records = decided
    results = Given.of(NEW, _results(changes), body=_bodies(changes))
    given = changed(records).beside(Given(_VERSION, [[versions[record.id] for record in records]])).beside(results)
    return set((yield from texts(_WRITE, given, at=now)))
