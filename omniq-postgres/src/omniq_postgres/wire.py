"""How calls and tasks cross into PostgreSQL and back: batches as arrays, one per column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from omniq.storage.records import MAX_COUNT
from omniq.storage.sql.tables import TASKS

from omniq_postgres.dialect import NOW, columns, record

CLOCK = f"clock as materialized (select {NOW} as now)"
"""SQL for statements that need the same time in several places."""

IS_RUNNING = "task.lease_until is not null"
"""SQL for the state RUNNING where ids are given. Were it asked by name, the server might walk `task_running` instead,
and in it the dead of all that ran."""

WITHOUT_BODY = columns(TASKS, bodies=False)
COLUMNS = columns(TASKS)
task_record = partial(record, TASKS)
"""The task that a row with all its columns is; a damaged one has its `damage`."""


def raised(counter: str) -> str:
    """SQL for a counter and one more. One that is damaged doesn't overflow, so that the other rows get theirs."""
    return f"least({counter}, {MAX_COUNT}) + 1"


def arrays(items: Sequence[object], *fields: str) -> list[list[Any]]:
    """These fields of the items, an array for each."""
    return [list(map(attrgetter(field), items)) for field in fields]
