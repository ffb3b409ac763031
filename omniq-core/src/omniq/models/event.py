"""One event in the life of a task or a schedule."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from omniq.models.state import EventType


class TaskEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a task. It carries ids, never arguments."""

    type: EventType
    time: float
    """Seconds since the epoch, on the clock of the process that saw it."""
    task_id: str | None = None
    schedule_id: str | None = None
    queue_name: str | None = None
    worker: str | None = None
    attempt: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """More about it, in plain JSON types."""
