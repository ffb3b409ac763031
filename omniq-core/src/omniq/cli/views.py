"""What is shown of tasks, schedules, events and queues. Never a task's arguments: they may hold secrets."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from omniq.cli.output import Cell, json_value
from omniq.models.state import TaskState
from omniq.models.times import as_datetime, utc

if TYPE_CHECKING:
    from omniq.models.event import TaskEvent
    from omniq.models.result import TaskResult
    from omniq.models.schedule import Schedule
    from omniq.models.task import Task
    from omniq.storage.records import QueueStats

TASK_COLUMNS: Final = ("ID", "STATE", "QUEUE", "FUNCTION", "RUN-AT", "PRIORITY", "FAILED")
DEAD_COLUMNS: Final = ("ID", "QUEUE", "FUNCTION", "FINISHED-AT", "FAILED", "ERROR")
CALL_FIELDS: Final = ("max_retries", "retry_delay", "timeout", "result_ttl", "metadata", "body")
"""What only a task's call tells."""
STATS_COLUMNS: Final = ("QUEUE", "PAUSED", *(state.upper() for state in TaskState))
SCHEDULE_COLUMNS: Final = ("ID", "STATE", "TIMING", "NEXT-RUN", "QUEUE", "FUNCTION")
EVENT_COLUMNS: Final = ("TIME", "TYPE", "TASK", "SCHEDULE", "QUEUE", "ATTEMPT", "WORKER", "DATA")


def task_data(task: Task) -> dict[str, object]:
    """A task for JSON: without its bytes, and in a list without what only those tell."""
    unread = CALL_FIELDS if task.max_retries is None else ("body",)
    return {name: value for name, value in asdict(task).items() if name not in unread}


def task_row(task: Task) -> tuple[Cell, ...]:
    """A task under `TASK_COLUMNS`."""
    state = task.state.value if task.damage is None else f"{task.state} (damaged)"
    return task.id, state, task.queue_name, task.func, task.run_at, task.priority, task.attempts


def task_fields(task: Task, result: TaskResult | None) -> list[tuple[str, Cell]]:
    """A task by the names of its fields, and the error it ended with, if any."""
    return [(name, _cell(value)) for name, value in dead_data(task, result).items()]


def dead_row(task: Task, result: TaskResult | None) -> tuple[Cell, ...]:
    """A dead letter under `DEAD_COLUMNS`."""
    return task.id, task.queue_name, task.func, task.finished_at, task.attempts, error_text(result)


def dead_data(task: Task, result: TaskResult | None) -> dict[str, object]:
    """A dead letter for JSON."""
    return {**task_data(task), "error": error_text(result)}


def error_text(result: TaskResult | None) -> str | None:
    """What the task ended with, where that is still known."""
    return None if result is None else f"{result.error_type}: {result.error_message}"


def result_data(result: TaskResult) -> dict[str, object]:
    """A result for JSON, its value as far as JSON can say it. Raises `SerializationError` if it can't be rebuilt."""
    data = asdict(result)
    del data["stored"]
    return {**data, "value": json_value(result.value)}


def stats_json(stats: QueueStats) -> object:
    """A queue as plain data, for JSON."""
    return {**asdict(stats), "oldest_due": as_datetime(stats.oldest_due)}


def stats_row(stats: QueueStats) -> tuple[Cell, ...]:
    """A queue under `STATS_COLUMNS`."""
    counts = (stats.counts.get(state, 0) for state in TaskState)
    return stats.name, "yes" if stats.paused else "no", *counts


def schedule_row(schedule: Schedule) -> tuple[Cell, ...]:
    """A schedule under `SCHEDULE_COLUMNS`."""
    timing = _given(schedule.timing)
    return schedule.id, schedule.state, timing, schedule.next_run, schedule.queue_name, schedule.func


def event_row(event: TaskEvent) -> tuple[Cell, ...]:
    """An event under `EVENT_COLUMNS`."""
    return (
        utc(event.time),
        event.type.value,
        event.task_id,
        event.schedule_id,
        event.queue_name,
        event.attempt,
        event.worker,
        _pairs(event.data if event.damage is None else {**event.data, "damage": event.damage}),
    )


def event_data(event: TaskEvent) -> dict[str, object]:
    """An event for JSON."""
    return {**asdict(event), "time": utc(event.time)}


def _cell(value: object) -> Cell:
    if isinstance(value, dict):
        return _pairs(value)
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, int | float | dt.datetime | None) else str(value)


def _given(struct: Struct) -> str:
    return _pairs({name: value for name, value in asdict(struct).items() if value is not None})


def _pairs(mapping: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in mapping.items())
