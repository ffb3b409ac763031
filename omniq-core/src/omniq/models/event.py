"""What happened to tasks, schedules, queues and workers: events, their types and levels."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from msgspec import Meta, Struct, field

from omniq.clock import FIRST_SECOND, LAST_SECOND


class AnyCase(StrEnum):
    """Names that are known in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class EventType(AnyCase):
    """What happened to a task, a schedule, a queue or a worker."""

    __hash__ = str.__hash__  # as for states

    ENQUEUED = "ENQUEUED"
    EXECUTING = "EXECUTING"
    """A run has begun."""
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    """It failed for good: DEAD_LETTERED follows."""
    RETRY = "RETRY"
    """A run failed, or its process died, and it is tried again."""
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    DEAD_LETTERED = "DEAD_LETTERED"
    """It was parked in the dead-letter queue, after a run or without one."""
    TASK_REQUEUED = "TASK_REQUEUED"
    """It was taken out of the dead-letter queue, or had been cancelled or expired, and starts afresh."""
    LEASE_EXPIRED = "LEASE_EXPIRED"
    """Its worker didn't renew its lease, and it goes back to its queue."""
    SCHEDULE_CREATED = "SCHEDULE_CREATED"
    SCHEDULE_FIRED = "SCHEDULE_FIRED"
    SCHEDULE_PAUSED = "SCHEDULE_PAUSED"
    SCHEDULE_RESUMED = "SCHEDULE_RESUMED"
    SCHEDULE_DELETED = "SCHEDULE_DELETED"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    QUEUE_RESUMED = "QUEUE_RESUMED"
    WORKER_STARTED = "WORKER_STARTED"
    WORKER_STOPPED = "WORKER_STOPPED"
    UNKNOWN = "UNKNOWN"
    """Stands in for a stored type that is none of these: see `TaskEvent.damage`."""

    @property
    def level(self) -> EventLevel:
        """How much it matters."""
        return _LEVELS.get(self, EventLevel.INFO)


class EventLevel(AnyCase):
    """How much an event matters, the least first."""

    DEBUG = "DEBUG"
    """What every task goes through on its way, and schedules that fire."""
    INFO = "INFO"
    """How a task ended, and what somebody has changed."""
    WARNING = "WARNING"
    """What went wrong and may mend by itself, and tasks that weren't run."""
    ERROR = "ERROR"
    """What failed for good."""

    @property
    def types(self) -> frozenset[EventType]:
        """The types of events that matter as much or more."""
        levels = list(EventLevel)
        return frozenset(type_ for type_ in EventType if levels.index(type_.level) >= levels.index(self))


_LEVELS: Final[Mapping[EventType, EventLevel]] = {
    EventType.ENQUEUED: EventLevel.DEBUG,
    EventType.EXECUTING: EventLevel.DEBUG,
    EventType.SCHEDULE_FIRED: EventLevel.DEBUG,
    EventType.RETRY: EventLevel.WARNING,
    EventType.EXPIRED: EventLevel.WARNING,
    EventType.LEASE_EXPIRED: EventLevel.WARNING,
    EventType.ERROR: EventLevel.ERROR,
    EventType.DEAD_LETTERED: EventLevel.ERROR,
}
"""Of those that aren't INFO."""


class TaskEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a task, a schedule, a queue or a worker. It carries ids and names, never arguments."""

    id: str
    """Unique, and greater than those of the events that the same process has logged before."""
    type: EventType
    time: Annotated[float, Meta(ge=FIRST_SECOND, le=LAST_SECOND)]
    """Seconds since the epoch, on the clock of the process that saw it."""
    task_id: str | None = None
    name: str | None = None
    """The task's function, as `Task.func` says it in lists."""
    schedule_id: str | None = None
    queue_name: str | None = None
    worker: str | None = None
    attempt: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """More about it, in plain JSON types."""
    damage: str | None = None
    """What is wrong with the stored row; what can't be read is a stand-in. None for an event that is sound."""

    @property
    def cursor(self) -> str:
        """Its place in the order of events, by time and id: where the next page, or a follower, goes on."""
        return f"{self.time!r}/{self.id}"
