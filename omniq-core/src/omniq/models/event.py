"""One event in the life of a task or a schedule."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from omniq.models.state import EventType
from omniq.models.times import FIRST_SECOND, LAST_SECOND


class TaskEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a task. It carries ids, never arguments."""

    type: EventType
    time: Annotated[float, Meta(ge=FIRST_SECOND, le=LAST_SECOND)]
    """Seconds since the epoch, on the clock of the process that saw it."""
    task_id: str | None = None
    schedule_id: str | None = None
    queue_name: str | None = None
    worker: str | None = None
    attempt: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """More about it, in plain JSON types."""
    damage: str | None = None
    """What is wrong with the stored row; what can't be read is a stand-in. None for an event that is sound."""
