"""The tables that are alike in all databases, and the records that their rows are."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import asdict, fields, replace

from omniq.models.event import TaskEvent
from omniq.storage.damage import event_of, result_of, schedule_of, task_of
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord
from omniq.storage.sql.steps import Table


def _with_ttl(result: ResultRecord) -> ResultRecord:
    if result.expires_at is None:
        return result
    return replace(result, ttl=round(result.expires_at - result.finished_at, 6))


TASKS: Final = Table("task", "id", TaskRecord, task_of, columns={"unique": "unique_key"})
RESULTS: Final = Table(
    "result",
    "task_id",
    ResultRecord,
    result_of,
    where="(expires_at is null or expires_at > {now})",
    derived=_with_ttl,
    left_out=("ttl",),
)
SCHEDULES: Final = Table("schedule", "id", ScheduleRecord, schedule_of)
EVENTS: Final = Table("event", "id", TaskEvent, event_of)

_MENDED: Final = [field.name for field in fields(TaskRecord) if field.name not in ("id", "unique", "damage")]
MEND: Final = f"""
    update omniq.task set {", ".join(f"{name} = :{name}" for name in _MENDED)}, unique_key = null
    where id in ({{text[id]}}, :id)
"""
"""A task that is damaged gives its unique key up: that may be what is wrong with it, and of several stand-ins only one
could have it. An id that isn't text is given as a blob."""


def mended(task: TaskRecord) -> dict[str, Any]:
    """What `MEND` writes: what a damaged task was read as, so that it can be ended like others."""
    return asdict(task) | {"depends_on": task.depends_on or None}
