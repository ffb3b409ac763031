"""From a stored record to what users see."""

from __future__ import annotations

from typing import Any

from omniq.models.result import TaskResult
from omniq.models.state import ResultStatus
from omniq.models.times import as_datetime
from omniq.serialization.manager import SerializationManager
from omniq.storage.records import ResultRecord


def task_result(record: ResultRecord, serialization: SerializationManager) -> TaskResult:
    """The result as users see it. Raises `SerializationError` when it is damaged or not signed by us."""
    outcome = serialization.read_outcome(record.body, task_id=record.task_id, epoch=record.epoch)
    value: Any = None
    if outcome.value_format:
        value = serialization.load_value(outcome.value_format, outcome.value)
    return TaskResult(
        task_id=record.task_id,
        status=ResultStatus(record.status.value),
        value=value,
        error_type=outcome.error_type,
        error_message=outcome.error_message,
        traceback=outcome.traceback,
        epoch=record.epoch,
        attempts=outcome.attempts,
        started_at=as_datetime(outcome.started_at),
        finished_at=as_datetime(record.finished_at),
        expires_at=as_datetime(record.expires_at),
        worker=outcome.worker,
        schedule_id=record.schedule_id,
    )
