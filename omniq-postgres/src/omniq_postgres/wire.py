"""How tasks cross into PostgreSQL and back: batches as arrays, one per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg
import msgspec
from omniq.storage.damage import task_of
from omniq.storage.records import MAX_COUNT, TaskRecord

from omniq_postgres.connection import Session

NOW_AT = "(select extract(epoch from clock_timestamp())::float8 + {}::float8)"
"""SQL for the server's time plus `omniq.clock.offset()`, which is the parameter."""
NOW = NOW_AT.format("$1")
"""The same, where the offset is the statement's first parameter."""
CLOCK = f"clock as materialized (select {NOW} as now)"
"""SQL for statements that need the same time in several places."""

IS_RUNNING = "task.lease_until is not null"
"""SQL for the state RUNNING where ids are given. Were it asked by name, the server might walk `task_running` instead,
and in it the dead of all that ran."""


def raised(counter: str) -> str:
    """SQL for a counter and one more. One that is damaged doesn't overflow, so that the other rows get theirs."""
    return f"least({counter}, {MAX_COUNT}) + 1"


COLUMNS = (
    "id, queue_name, state, priority, created_at, run_at, expires_at, finished_at, epoch, attempts, crashes, "
    "lease_until, claimed_at, worker, cancel_requested, coalesce(depends_on, array[]::text[]) as depends_on, "
    "schedule_id, name, body"
)
WITHOUT_BODY = COLUMNS.removesuffix(", body")
_FETCH_TASKS = f"select {COLUMNS} from omniq.task where id = any($1::text[])"
_FETCH_WITHOUT_BODIES = f"select {WITHOUT_BODY} from omniq.task where id = any($1::text[])"


def conditions(wanted: Mapping[str, object | None]) -> tuple[str, list[object]]:
    """SQL for those conditions whose value isn't None, with `{}` for the parameter's number, and their values."""
    used = [(sql, value) for sql, value in wanted.items() if value is not None]
    text = " and ".join(sql.format(f"${number}") for number, (sql, _) in enumerate(used, start=1))
    return text or "true", [value for _, value in used]


def array_literal(texts: Sequence[str]) -> str | None:
    """Text for the server to read as an array, since arrays of arrays of different lengths can't be sent."""
    if not texts:
        return None
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


async def fetch_tasks(session: Session, ids: Sequence[str], *, bodies: bool) -> dict[str, TaskRecord]:
    """Those of the tasks that exist."""
    records = map(task_record, await session.fetch(_FETCH_TASKS if bodies else _FETCH_WITHOUT_BODIES, ids))
    return {record.id: record for record in records}


def task_record(row: asyncpg.Record) -> TaskRecord:
    """The task that a row with all its columns is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        return msgspec.convert(values, TaskRecord)
    except ValueError:
        return task_of(values)
