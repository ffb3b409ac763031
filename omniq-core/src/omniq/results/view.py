"""From a stored record to what users see."""

from __future__ import annotations

from omniq.errors import CorruptPayload, SerializationError
from omniq.models.result import NO_VALUE, StoredValue, TaskResult
from omniq.models.state import ResultStatus, TaskState
from omniq.models.times import as_datetime
from omniq.serialization.manager import SerializationManager
from omniq.storage.records import ResultRecord


def task_result(record: ResultRecord, serialization: SerializationManager) -> TaskResult:
    """The result as users see it, its value still packed.

    Raises `SerializationError` when it is damaged or not signed by us.
    """
    if record.damage is not None:
        raise CorruptPayload(f"the stored result of task {record.task_id} is damaged: {record.damage}")
    outcome = serialization.read_outcome(
        record.body,
        task_id=record.task_id,
        epoch=record.epoch,
        status=record.status,
        schedule_id=record.schedule_id,
    )
    succeeded = record.status is TaskState.SUCCESS  # what failed has no value, whatever its record says
    return TaskResult(
        task_id=record.task_id,
        status=ResultStatus(record.status.value),
        stored=StoredValue(outcome.value_format, outcome.value, serialization.load_value) if succeeded else NO_VALUE,
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


def listed_result(record: ResultRecord, serialization: SerializationManager) -> TaskResult:
    """The result as one of a list: where it can't be read, an error that says why, so that the others are seen."""
    try:
        return task_result(record, serialization)
    except SerializationError as error:
        return TaskResult(
            task_id=record.task_id,
            status=ResultStatus.ERROR,
            error_type=f"{type(error).__module__}.{type(error).__qualname__}",
            error_message=str(error),
            epoch=record.epoch,
            finished_at=as_datetime(record.finished_at),
            expires_at=as_datetime(record.expires_at),
            schedule_id=record.schedule_id,
        )
