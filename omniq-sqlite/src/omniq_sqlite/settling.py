"""`transition`: the one write by which tasks end, retry, go back or cancel."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.records import Change, Changed, ChangeStatus, ResultRecord, TaskRecord
from omniq.storage.rules import decide

from omniq_sqlite.results import store_results
from omniq_sqlite.wire import encode, fetch_text, maybe_seconds, maybe_ticks, ticks_of, time_at, to_seconds, to_ticks

_CURRENT = f"""
    select json_group_array(json_array(id, state, {ticks_of("run_at")}, {ticks_of("expires_at")},
        {ticks_of("finished_at")}, epoch, attempts, crashes, {ticks_of("lease_until")}, worker, cancel_requested,
        exists (select 1 from edge where parent = task.id)))
    from task where id in (select value from json_each(?))
"""
UPDATE = f"""
    update task set state = value ->> 1, run_at = {time_at(2)}, expires_at = {time_at(3)}, finished_at = {time_at(4)},
        attempts = value ->> 5, crashes = value ->> 6, lease_until = {time_at(7)}, worker = value ->> 8,
        cancel_requested = value ->> 9
    from json_each(?) where task.id = value ->> 0
"""


class _CurrentRow(Struct, array_like=True, frozen=True):
    id: str
    state: TaskState
    run_at: int
    expires_at: int | None
    finished_at: int | None
    epoch: int
    attempts: int
    crashes: int
    lease_until: int | None
    worker: str | None
    cancel_requested: int
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
    """Decide the changes one after the other, then write all that came of them."""
    now = clock.now()
    ids = encode([change.task_id for change in changes])
    rows = {row.id: row for row in _decode_current(fetch_text(connection, _CURRENT, ids))}
    records = {id_: _record(row) for id_, row in rows.items()}
    written: dict[str, TaskRecord] = {}
    answers = []
    results = []
    for change in changes:
        row = ...
