"""From a stored record to what users see."""

from __future__ import annotations

from msgspec.structs import replace

from omniq.errors import SerializationError
from omniq.logs import get_logger
from omniq.models.task import Call, Task
from omniq.models.times import as_datetime, utc
from omniq.queue.settle import RESULT_TTL
from omniq.serialization.manager import SerializationManager
from omniq.storage.records import TaskRecord

log = get_logger("omniq.queue")

UNREADABLE = Call(func="(unreadable)", args=b"", args_format="", result_ttl=RESULT_TTL)


def verified_call(record: TaskRecord, serialization: SerializationManager) -> Call:
    """The record's call. Raises `SerializationError`, and `KeyMissing` where only the key is missing here."""
    return serialization.read_call(
        record.body, task_id=record.id, queue_name=record.queue_name, schedule_id=record.schedule_id
    )


def read_call(record: TaskRecord, serialization: SerializationManager) -> Call:
    """The record's call; a stand-in, and a warning, where its bytes are damaged or not signed by us."""
    try:
        return verified_call(record, serialization)
    except SerializationError as error:
        log.warning("task %s can't be read: %s", record.id, error)
        return UNREADABLE


def task_view(record: TaskRecord) -> Task:
    """The task as lists show it: by what is kept beside its call."""
    return Task(
        id=record.id,
        func=record.name,
        queue_name=record.queue_name,
        state=record.state,
        priority=record.priority,
        created_at=utc(record.created_at),
        run_at=utc(record.run_at),
        expires_at=as_datetime(record.expires_at),
        finished_at=as_datetime(record.finished_at),
        attempts=record.attempts,
        crashes=record.crashes,
        epoch=record.epoch,
        worker=record.worker,
        cancel_requested=record.cancel_requested,
        depends_on=record.depends_on,
        schedule_id=record.schedule_id,
        damage=record.damage,
    )


def task_details(record: TaskRecord, serialization: SerializationManager) -> Task:
    """The task with all that its call tells, and what is wrong with it."""
    call, damage = UNREADABLE, record.damage
    try:
        call = verified_call(record, serialization)
    except SerializationError as error:
        damage = damage or str(error)
    return replace(
        task_view(record),
        func=call.func,
        max_retries=call.max_retries,
        retry_delay=call.retry_delay,
        timeout=call.timeout,
        result_ttl=call.result_ttl,
        metadata=call.metadata,
        body=record.body,
        damage=damage,
    )
