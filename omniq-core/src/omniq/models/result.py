"""What a user sees of a task's outcome."""

from __future__ import annotations

import datetime as dt
from typing import Any

from msgspec import Struct

from omniq.errors import TaskCancelled, TaskExpired, TaskFailed
from omniq.models.state import ResultStatus


class TaskResult(Struct, frozen=True, kw_only=True):
    """A snapshot of a task's outcome. `value` is what the function returned."""

    task_id: str
    status: ResultStatus
    value: Any = None
    error_type: str | None = None
    """Qualified name of the exception."""
    error_message: str | None = None
    traceback: str | None = None
    """The traceback as the worker saw it."""
    epoch: int = 0
    """The claim that ended it."""
    attempts: int = 0
    """Attempts made, the last one included."""
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    worker: str | None = None
    schedule_id: str | None = None

    @property
    def duration(self) -> float | None:
        """Seconds that the last attempt ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())

    def unwrap(self) -> Any:
        """Return `value`.

        Raises `TaskFailed`, `TaskCancelled` or `TaskExpired` when there is none.
        """
        if self.status is ResultStatus.SUCCESS:
            return self.value
        if self.status is ResultStatus.CANCELLED:
            raise TaskCancelled(f"task {self.task_id} was cancelled")
        if self.status is ResultStatus.EXPIRED:
            raise TaskExpired(f"task {self.task_id} wasn't started before its TTL ended")
        raise TaskFailed(self.task_id, self.error_type or "", self.error_message or "", self.traceback or "")


class Outcome(Struct, array_like=True, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a task ended: the part of a result that stores carry as opaque bytes."""

    value: bytes = b""
    value_format: str = ""
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    attempts: int = 0
    started_at: float | None = None
    worker: str | None = None
