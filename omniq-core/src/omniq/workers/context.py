"""What a running task may ask about itself."""

from __future__ import annotations

import time
from contextvars import ContextVar

from omniq.background import inside
from omniq.errors import NoCurrentTask
from omniq.models.task import Call
from omniq.storage.records import TaskRecord


class TaskContext:
    """The task that is running here: `omniq.current_task()`."""

    __slots__ = (
        "_cancelled",
        "attempt",
        "deadline",
        "epoch",
        "id",
        "max_retries",
        "metadata",
        "queue_name",
        "schedule_id",
    )

    def __init__(self, record: TaskRecord, call: Call) -> None:
        self.id = record.id
        self.queue_name = record.queue_name
        self.attempt = record.attempts + 1
        """1 for the first attempt."""
        self.max_retries = call.max_retries
        self.epoch = record.epoch
        """Rises with every claim: a fencing token for the task's own writes elsewhere."""
        self.deadline = None if call.timeout is None else time.monotonic() + call.timeout
        """On `time.monotonic()`'s clock; None when the task has no timeout."""
        self.metadata = call.metadata
        self.schedule_id = record.schedule_id
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop: it was cancelled, timed out or lost its lease.

        Async tasks are cancelled by themselves; a long task on a thread looks here.
        """
        return self._cancelled

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, at least 0; None when there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def cancel(self) -> None:
        """Set `cancelled`; for the worker."""
        self._cancelled = True


current: ContextVar[TaskContext] = inside


def current_task() -> TaskContext:
    """The task that is running here. Raises `NoCurrentTask` outside one."""
    try:
        return current.get()
    except LookupError:
        raise NoCurrentTask("current_task() was called outside a running task") from None
