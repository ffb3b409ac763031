"""How calls and tasks cross into PostgreSQL and back: batches as arrays, one per column."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import wraps
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
import msgspec
from omniq.storage.damage import task_of
from omniq.storage.records import MAX_COUNT, TaskRecord

from omniq_postgres.connection import Database, Session
from omniq_postgres.dialect import NOW

P = ParamSpec("P")
T = TypeVar("T")

CLOCK = f"clock as materialized (select {NOW} as now)"
"""SQL for statements that need the same time in several places."""

IS_RUNNING = "task.lease_until is not null"
"""SQL for the state RUNNING where ids are given. Were it asked by name, the server might walk `task_running` instead,
and in it the dead of all that ran."""

WITHOUT_BODY = (
    "id, queue_name, state, priority, created_at, run_at, expires_at, finished_at, epoch, attempts, crashes, "
    "lease_until, claimed_at, worker, cancel_requested, coalesce(depends_on, array[]::text[]) as depends_on, "
    'schedule_id, unique_key as "unique", name'
)
COLUMNS = f"{WITHOUT_BODY}, body"


def in_session(
    job: Callable[Concatenate[Session, P], Awaitable[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A store's method that does this with a session, signature kept."""

    @wraps(job)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        database: Database = self._connection
        return await database.run(lambda session: job(session, *args, **kwargs))

    return method


def raised(counter: str) -> str:
    """SQL for a counter and one more. One that is damaged doesn't overflow, so that the other rows get theirs."""
    return f"least({counter}, {MAX_COUNT}) + 1"


def conditions(wanted: Mapping[str, object | None]) -> tuple[str, list[object]]:
    """SQL for those conditions whose value isn't None, with `{}` for the parameter's number, and their values."""
    used = [(sql, value) for sql, value in wanted.items() if value is not None]
    text = " and ".join(sql.format(f"${number}") for number, (sql, _) in enumerate(used, start=1))
    return text or "true", [value for _, value in used]


def arrays(items: Sequence[object], *fields: str) -> list[list[Any]]:
    """These fields of the items, an array for each."""
    return [list(map(attrgetter(field), items)) for field in fields]


def array_literal(texts: Sequence[str]) -> str | None:
    """Text for the server to read as an array, since arrays of arrays of different lengths can't be sent."""
    if not texts:
        return None
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def task_record(row: asyncpg.Record) -> TaskRecord:
    """The task that a row with all its columns is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        return msgspec.convert(values, TaskRecord)
    except ValueError:
        return task_of(values)
