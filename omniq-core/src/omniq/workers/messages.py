"""What a process worker and its children say to each other."""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace

from omniq.config.security import Security
from omniq.models.redaction import Redacted
from omniq.models.state import TaskState
from omniq.models.task import Call
from omniq.storage.records import TaskRecord
from omniq.storage.sizes import SizeLimit
from omniq.workers.frames import SMALL
from omniq.workers.job import Job, Ran
from omniq.workers.logs import LogSettings

TICKET: Final = Layout("!Q")
"""The number of a task that a child was given, and may begin if it draws this."""

_encode = Encoder().encode


class Greeting(Redacted, frozen=True, array_like=True):
    """The worker's first message: what a child needs that neither its arguments nor its environment may show."""

    security: Security
    max_result: SizeLimit
    secrets: dict[str, str]
    """Variables that were taken out of the environment."""
    logs: LogSettings
    parent: int
    """The worker's process."""


class GivenTask(Struct, array_like=True, gc=False):
    """What a child needs of a claimed task. Large arguments travel as the frame's body."""

    number: int
    id: str
    queue_name: str
    epoch: int
    attempts: int
    schedule_id: str | None
    call: Call

    def job(self, body: bytes) -> Job:
        """The job again, with what running it takes."""
        record = TaskRecord(
            id=self.id,
            queue_name=self.queue_name,
            body=b"",
            state=TaskState.RUNNING,
            priority=0,
            created_at=0.0,
            run_at=0.0,
            epoch=self.epoch,
            attempts=self.attempts,
            schedule_id=self.schedule_id,
        )
        return Job(record, replace(self.call, args=body) if body else self.call)


class Report(Struct, array_like=True, gc=False):
    """What came of a task. A large value travels as the frame's body."""

    ran: Ran
    leaving: bool = False
    """Whether the child can run no other task and ends."""


_decode_task = Decoder(GivenTask).decode
_decode_report = Decoder(Report).decode
_decode_greeting = Decoder(Greeting).decode


def pack_greeting(greeting: Greeting) -> bytes:
    return _encode(greeting)


def read_greeting(head: bytes) -> Greeting:
    return _decode_greeting(head)


def pack_task(number: int, job: Job) -> tuple[bytes, bytes]:
    """Head and body of the frame that gives a child this job."""
    record, call, body = job.record, job.call, b""
    if len(call.args) > SMALL:
        call, body = replace(call, args=b""), call.args
    task = GivenTask(number, record.id, record.queue_name, record.epoch, record.attempts, record.schedule_id, call)
    return _encode(task), body


def read_task(head: bytes) -> GivenTask:
    return _decode_task(head)


def pack_report(ran: Ran, *, leaving: bool) -> tuple[bytes, bytes]:
    """Head and body of the frame that tells what came of a task. A large value is taken out of `ran`."""
    body = b""
    if len(ran.value) > SMALL:
        ran.value, body = b"", ran.value
    return _encode(Report(ran, leaving)), body


def read_report(head: bytes, body: bytes) -> Report:
    """The report again. Raises `msgspec.DecodeError`."""
    report = _decode_report(head)
    if body:
        report.ran.value = body
    return report
