"""What is decided of a claimed task before it runs."""

from __future__ import annotations

from omniq.errors import SerializationError
from omniq.models.task import Call
from omniq.serialization.manager import SerializationManager
from omniq.storage.records import TaskRecord
from omniq.workers.execution import failure
from omniq.workers.job import End, Job, Ran
from omniq.workers.settling import poisoned

UNREADABLE = Call(func="(unreadable)", args=b"", args_format="", result_ttl=None)


class Admission:
    """Turns claimed records into jobs, or into outcomes that need no run."""

    def __init__(self, serialization: SerializationManager, *, max_crashes: int) -> None:
        self._serialization = serialization
        self._max_crashes = max_crashes

    def admit(self, record: TaskRecord) -> tuple[Job, Ran | None]:
        """The job, and what has come of it already if it mustn't run.

        A task whose bytes are damaged or not signed by us is dead-lettered; the bytes stay as they are.
        """
        try:
            call = self._serialization.read_call(record.body, task_id=record.id, queue_name=record.queue_name)
        except SerializationError as error:
            job = Job(record, UNREADABLE)
            return job, failure(job, error, fatal=True)
        job = Job(record, call, alone=self.is_suspect(record))
        if record.crashes >= self._max_crashes:
            return job, poisoned(record.crashes)
        if record.cancel_requested:
            return job, Ran(end=End.CANCELLED)
        if self._is_expired(record):
            return job, Ran(end=End.EXPIRED)
        return job, None

    def is_suspect(self, record: TaskRecord) -> bool:
        """Whether its next crash would be its last: it runs with nothing beside it that it could drag along."""
        return 0 < record.crashes >= self._max_crashes - 1

    @staticmethod
    def _is_expired(record: TaskRecord) -> bool:
        return (
            record.expires_at is not None and record.claimed_at is not None and record.expires_at <= record.claimed_at
        )
