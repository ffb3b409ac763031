"""The states of a task, of a result, and the types of events."""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is. `docs/design.md` draws the transitions."""

    PENDING = "pending"
    """Due: the next claim may take it."""
    SCHEDULED = "scheduled"
    """Due later, at `run_at`."""
    WAITING = "waiting"
    """Waiting for its parents."""
    RUNNING = "running"
    """Claimed by a worker under a lease."""
    SUCCESS = "success"
    ERROR = "error"
    """Failed for good; kept in the dead-letter queue until it is requeued or purged."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Not started before its TTL ended."""

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({TaskState.SUCCESS, TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED})
QUEUED = frozenset({TaskState.PENDING, TaskState.SCHEDULED, TaskState.WAITING})


class ResultStatus(StrEnum):
    """What is known of a task's outcome."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class EventType(StrEnum):
    """What happened to a task or a schedule."""

    ENQUEUED = "ENQUEUED"
    EXECUTING = "EXECUTING"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    RETRY = "RETRY"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    SCHEDULE_PAUSED = "SCHEDULE_PAUSED"
    SCHEDULE_RESUMED = "SCHEDULE_RESUMED"
    UNKNOWN = "UNKNOWN"
    """Stands in for a stored type that is none of these: see `TaskEvent.damage`."""
