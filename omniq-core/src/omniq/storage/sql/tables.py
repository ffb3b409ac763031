"""The tables that are alike in all databases, and the records that their rows are."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

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
