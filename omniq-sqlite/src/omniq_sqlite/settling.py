"""`transition`: the one write by which tasks end, retry, go back or cancel."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.records import Change, Changed, ChangeStatus, Count, ResultRecord, TaskRecord
from omniq.storage.rules import decide

from omniq_sqlite.damage import DAMAGE, check_damage, give_stand_ins
from omniq_sqlite.results import store_results
from omniq_sqlite.wire import (
    TICKS,
    Flag,
    Ticks,
    encode,
    fetch_text,
    maybe_ticks,
    ticks_of,
    time_at,
    to_ticks,
)

_CURRENT = f"""
    select json_group_array(json_array(id, state, {ticks_of("run_at")}, {ticks_of("expires_at")},
        {ticks_of("finished_at")}, epoch, attempts, crashes, {ticks_of("lease_until")}, worker, cancel_requested,
        exists (select 1 from edge where parent = task.id)))
    from task where id in (select value from json_each(?))
"""
END = """
    update task set state = ?2, finished_at = ?3, lease_until = null where id in (select value from json_each(?1))
"""
UPDATE = f"""
    with change as materialized (select value from json_each(?))
    update task set state = value ->> 1, run_at = {time_at(2)}, expires_at = {time_at(3)}, finished_at = {time_at(4)},
        attempts = value ->> 5, crashes = value ->> 6, lease_until = {time_at(7)}, worker = value ->> 8,
        cancel_requested = value ->> 9
    from change where task.id = value ->> 0
"""


class _CurrentRow(Struct, array_like=True, frozen=True, gc=False):
    id: str
    state: TaskState
    run_at: Ticks
    expires_at: Ticks | None
    finished_at: Ticks | None
    epoch: Count
    attempts: Count
    crashes: Count
    lease_until: Ticks | None
    worker: str | None
    cancel_requested: Flag
    has_children: int


_decode_current = msgspec.json.Decoder(list[_CurrentRow]).decode


class Settled(Struct, frozen=True):
    """What came of a batch of changes."""

    answers: list[Changed]
    any_due: bool
    """Whether a task became PENDING."""
    results: list[ResultRecord]
    """Those of the changes that were applied."""


def settle(connection: sqlite3.Connection, changes: Sequence[Change]) -> Settled:
    """Decide the changes one after the other, then write all that came of them at once."""
    try:
        return _settle(connection, changes)
    except DAMAGE as error:
        check_damage(error)
    settled = [_settle_alone(connection, change) for change in changes]
    return Settled(
        [answer for each in settled for answer in each.answers],
        any(each.any_due for each in settled),
        [result for each in settled for result in each.results],
    )


def _settle_alone(connection: sqlite3.Connection, change: Change) -> Settled:
    """Decide and write one change. A damaged task gets stand-ins, so that it can be ended too; but only with that."""
    try:
        return _settle(connection, [change])
    except DAMAGE as error:
        check_damage(error)
    connection.execute("savepoint damaged")
    give_stand_ins(connection, [change.task_id])
    settled = _settle(connection, [change])
    if settled.answers[0].status is not ChangeStatus.APPLIED:
        connection.execute("rollback to damaged")
    connection.execute("release damaged")
    return settled


def _settle(connection: sqlite3.Connection, changes: Sequence[Change]) -> Settled:
    """The same for all. Raises one of `DAMAGE`, and has written nothing, if a task is damaged."""
    now = clock.now()
    ids = encode([change.task_id for change in changes])
    rows = _decode_current(fetch_text(connection, _CURRENT, ids))
    parents = {row.id for row in rows if row.has_children}
    before = {row.id: _record(row) for row in rows}
    records = before.copy()
    statuses = [_apply(records, change, now) for change in changes]
    applied = [change for change, status in zip(changes, statuses, strict=True) if status is ChangeStatus.APPLIED]
    changed = [records[id_] for id_ in dict.fromkeys(change.task_id for change in applied)]
    results = [change.result for change in applied if change.result is not None]
    _write(connection, before, changed, now)
    store_results(connection, results, now)
    return Settled(
        [Changed(status, change.task_id in parents) for change, status in zip(changes, statuses, strict=True)],
        any(record.state is TaskState.PENDING for record in changed),
        results,
    )


def _record(row: _CurrentRow) -> TaskRecord:
    """The part of the record that `decide` reads or changes; the rest is made up."""
    return TaskRecord(
        id=row.id,
        queue_name="",
        body=b"",
        state=row.state,
        priority=0,
        created_at=0.0,
        run_at=row.run_at / TICKS,
        expires_at=None if row.expires_at is None else row.expires_at / TICKS,
        finished_at=None if row.finished_at is None else row.finished_at / TICKS,
        epoch=row.epoch,
        attempts=row.attempts,
        crashes=row.crashes,
        lease_until=None if row.lease_until is None else row.lease_until / TICKS,
        worker=row.worker,
        cancel_requested=bool(row.cancel_requested),
    )


def _apply(records: dict[str, TaskRecord], change: Change, now: float) -> ChangeStatus:
    """Decide the change; the next one of the same task sees its effect."""
    status, record = decide(records.get(change.task_id), change, now)
    if record is not None:
        records[record.id] = record
    return status


def _write(connection: sqlite3.Connection, before: dict[str, TaskRecord], after: list[TaskRecord], now: float) -> None:
    """One statement per terminal state for the tasks that have just ended, and one for the others."""
    ended: defaultdict[TaskState, list[str]] = defaultdict(list)
    others = []
    for record in after:
        if record == replace(before[record.id], state=record.state, finished_at=now, lease_until=None):
            ended[record.state].append(record.id)
        else:
            others.append(record)
    for state, ids in ended.items():
        connection.execute(END, (encode(ids), state, now))
    if others:
        connection.execute(UPDATE, (_rows(others),))


def _rows(records: Iterable[TaskRecord]) -> str:
    return encode(
        [
            (
                record.id,
                record.state,
                to_ticks(record.run_at),
                maybe_ticks(record.expires_at),
                maybe_ticks(record.finished_at),
                record.attempts,
                record.crashes,
                maybe_ticks(record.lease_until),
                record.worker,
                record.cancel_requested,
            )
            for record in records
        ]
    )
