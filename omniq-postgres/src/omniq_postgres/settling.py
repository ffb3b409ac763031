"""Writing what was decided of tasks that end, retry, go back or are cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from omniq.models.task import TaskState
from omniq.storage.records import MAX_COUNT, Change, ResultRecord
from omniq.storage.sql import claiming
from omniq.storage.sql.claiming import SET_CHANGED, Decided, Ending, Seen, Settled, changed
from omniq.storage.sql.results import IF_IT_GIVES_WAY, NEW
from omniq.storage.sql.steps import Given, Steps, ask, kinds, texts

from omniq_postgres.dialect import IS_RUNNING, WITHOUT_BODY, task_record

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
