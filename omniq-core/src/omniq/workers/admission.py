"""What is decided of a claimed task before it runs."""

from __future__ import annotations

from typing import Final

from omniq.errors import CorruptPayload, KeyMissing, SerializationError
from omniq.logs import get_logger
from omniq.queue.view import UNREADABLE, verified_call
from omniq.serialization.manager import SerializationManager
from omniq.serialization.signing import VARIABLE
from omniq.storage.records import TaskRecord
from omniq.workers.execution import failure
from omniq.workers.job import End, Job, Ran
from omniq.workers.settling import poisoned

log = get_logger("omniq.worker")

FIRST_WAIT: Final = 1.0
MAX_WAIT: Final = 30.0
"""Seconds until a task is handed out again that this worker lacks the key for; they double from claim to claim."""
MAX_TOLD: Final = 100
"""Key ids of which the log is told."""


class Admission:
    """Turns claimed records into jobs, or into outcomes that need no run."""

    def __init__(self, serialization: SerializationManager, *, max_crashes: int) -> None:
        self._serialization = serialization
        self._max_crashes = max_crashes
        self._told: set[str] = set()
        """The missing keys that the log was told of."""

    def admit(self, record: TaskRecord) -> tuple[Job, Ran | None]:
        """The job, and what has come of it already if it mustn't run.

        A task that makes no sense, in its columns or its bytes, or whose bytes aren't signed by us is dead-lettered;
        the bytes stay as they are. One that is signed with a key which this process lacks goes back, uncharged, to a
        worker that has it.
        """
        try:
            if record.damage is not None:
                raise CorruptPayload(f"the stored task is damaged: {record.damage}")
            call = verified_call(record, self._serialization)
        except KeyMissing as error:
            self._tell(error)
            return Job(record, UNREADABLE), Ran(end=End.RELEASED, delay=until_next_try(record))
        except SerializationError as error:
            job = Job(record, UNREADABLE)
            return job, failure(job, error, fatal=True)
        job = Job(record, call, alone=self.is_suspect(record))
        if record.crashes >= self._max_crashes:
            return job, poisoned(record.crashes)
        if record.cancel_requested:
            return job, Ran(end=End.CANCELLED)
        if record.expires_at is not None and self._is_expired(record, record.expires_at):
            return job, Ran(end=End.EXPIRED)
        return job, None

    def is_suspect(self, record: TaskRecord) -> bool:
        """Whether its next crash would be its last: it runs with nothing beside it that it could drag along."""
        return 0 < record.crashes >= self._max_crashes - 1

    def _tell(self, error: KeyMissing) -> None:
        if error.key_id in self._told or len(self._told) == MAX_TOLD:
            return
        self._told.add(error.key_id)
        log.error(
            "tasks signed with key id %r can't be run here and go back for other workers: add that key to %s of this "
            "process (%s)",
            error.key_id,
            VARIABLE,
            error,
        )

    @staticmethod
    def _is_expired(record: TaskRecord, at: float) -> bool:
        return record.claimed_at is not None and at <= record.claimed_at


def until_next_try(record: TaskRecord) -> float:
    """Seconds until a task that couldn't be read is worth another claim: more with every one it has had."""
    return min(MAX_WAIT, FIRST_WAIT * 2.0 ** min(record.epoch - 1, 16))
