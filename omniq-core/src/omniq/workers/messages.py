"""How a worker and its child processes speak, and what they say."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from struct import Struct as Layout
from typing import BinaryIO, Final, TypeAlias, cast

from msgspec import Struct
from msgspec.json import Decoder as JSONDecoder
from msgspec.json import encode as encode_json
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace

from omniq.config.loader import Security
from omniq.models.config import Redacted
from omniq.models.result import Progress
from omniq.models.task import Call, TaskState
from omniq.serialization.parents import ParentResult
from omniq.storage.base import SizeLimit
from omniq.storage.records import TaskRecord
from omniq.workers.execution import LogSettings
from omniq.workers.jobs import Job, RunResult, RunStatus
from omniq.workers.stacks import Stack

# ── frames ──────────────────────────────────────────────────────────────────


HEADER: Final = struct.Struct("!IQ")
MAX_BODY: Final = 2**31
"""Bytes; who sends has to refuse what is larger."""
SMALL: Final = 64 * 1024
"""Bytes up to which a frame is copied as a whole, since calls cost more than copies."""


def parts(head: bytes, body: bytes = b"") -> tuple[bytes, ...]:
    """A frame, to be sent part by part; a large body isn't copied."""
    header = HEADER.pack(len(head), len(body))
    return (header + head, body) if len(body) > SMALL else (b"".join((header, head, body)),)


def coalesced(frames: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """The frames in as few parts as go without copying large ones."""
    for large, run in groupby(chain.from_iterable(frames), lambda part: len(part) > SMALL):
        if large:
            yield from run
        else:
            yield b"".join(run)


def send(sock: socket.socket, head: bytes, body: bytes = b"") -> None:
    """Send a frame on a blocking socket. Raises `OSError` when the other side is gone."""
    for part in parts(head, body):
        sock.sendall(part)


def receive(file: BinaryIO) -> tuple[bytes, bytes]:
    """The next frame's head and body. Raises `EOFError` or `OSError` when the other side is gone."""
    head_size, body_size = HEADER.unpack(_exactly(file, HEADER.size))
    return _exactly(file, head_size), _exactly(file, body_size)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("the other side is gone")
    return data


class FrameProtocol(asyncio.BufferedProtocol):
    """Tells what frames come in on a transport, and when no more will.

    `on_frame` is called with head and body; `on_end` once: the other side is gone, or what it sends is no frame.
    Small frames are cut out of one buffer; a large one gets a buffer of its own, which the socket fills.
    """

    def __init__(self, on_frame: Callable[[bytes, bytes], None], on_end: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._buffer = memoryview(bytearray(SMALL))
        self._filled = 0
        self._large: memoryview | None = None
        self._head_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's isn't an instance of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._large = None
        self._on_end()

    def get_buffer(self, sizehint: int) -> memoryview:
        return (self._buffer if self._large is None else self._large)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._large is None:
            self._cut()
        elif self._filled == len(self._large):
            payload, self._large, self._filled = self._large, None, 0
            self._on_frame(bytes(payload[: self._head_size]), bytes(payload[self._head_size :]))

    def _cut(self) -> None:
        """Take the frames that are complete out of the buffer, and make room for the rest of the last one."""
        buffer, start, end = self._buffer, 0, self._filled
        while end - start >= HEADER.size:
            head_size, body_size = HEADER.unpack_from(buffer, start)
            begin = start + HEADER.size
            middle = begin + head_size
            after = middle + body_size
            if after - start > len(buffer):
                self._expect(head_size, body_size, buffer[begin:end])
                return
            if after > end:
                break
            self._on_frame(bytes(buffer[begin:middle]), bytes(buffer[middle:after]))
            start = after
        buffer[: end - start] = buffer[start:end]
        self._filled = end - start

    def _expect(self, head_size: int, body_size: int, beginning: memoryview) -> None:
        """Let the rest of a large frame be read to where it belongs."""
        try:
            if body_size > MAX_BODY:
                raise MemoryError
            self._large = memoryview(bytearray(head_size + body_size))
        except MemoryError:  # it is no frame of ours, or one that this process can't hold
            self._transport.abort()
            return
        self._head_size, self._filled = head_size, len(beginning)
        self._large[: len(beginning)] = beginning


# ── messages ────────────────────────────────────────────────────────────────


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
    max_memory: int | None = None
    """Bytes; with more of them after a task, the child is to be replaced."""
    initializer: str | None = None
    """What it calls before it is ready."""


class GivenTask(Struct, array_like=True, tag=0, gc=False):
    """What a child needs of a claimed task. Large arguments travel as the frame's body."""

    number: int
    id: str
    queue_name: str
    epoch: int
    attempts: int
    schedule_id: str | None
    call: Call
    parents: tuple[ParentResult, ...]

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
        return Job(record, replace(self.call, args=body) if body else self.call, parents=self.parents)


class StopTask(Struct, array_like=True, tag=1, frozen=True, gc=False):
    """That a task is to end: where `why` isn't said, for want of a sign of life. Not for children that are killed."""

    number: int
    why: RunStatus | None = None


Order: TypeAlias = GivenTask | StopTask
"""What a worker says to a child that it has greeted."""


class Report(Struct, array_like=True, tag=0, gc=False):
    """What came of a task. A large value travels as the frame's body."""

    number: int
    ran: RunResult
    leaving: bool = False
    """Whether the child can run no other task, or should, and ends."""


class SignOfLife(Struct, array_like=True, tag=1, frozen=True, gc=False):
    """That a task goes on, and how far it has come if it said so."""

    number: int
    progress: Progress | None = None


Message: TypeAlias = Report | SignOfLife
"""What a child says once it is ready."""


_decode_order = Decoder(Order).decode
_decode_message = Decoder(Message).decode
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
    about = (record.id, record.queue_name, record.epoch, record.attempts, record.schedule_id)
    task = GivenTask(number, *about, call, job.parents)
    return _encode(task), body


def pack_stop(number: int, why: RunStatus | None) -> bytes:
    """Head of the frame that tells it."""
    return _encode(StopTask(number, why))


def read_order(head: bytes) -> Order:
    order: Order = _decode_order(head)
    return order


def pack_report(number: int, ran: RunResult, *, leaving: bool) -> tuple[bytes, bytes]:
    """Head and body of the frame that tells what came of a task. A large value is taken out of `ran`."""
    body = b""
    if len(ran.value) > SMALL:
        ran.value, body = b"", ran.value
    return _encode(Report(number, ran, leaving)), body


def pack_sign_of_life(number: int, progress: Progress | None) -> bytes:
    """Head of the frame that tells it."""
    return _encode(SignOfLife(number, progress))


def pack_stacks(stacks: dict[str, Stack]) -> bytes:
    """What a child answers when it is asked where its tasks are, those at one place together, and the end of that."""
    together: dict[Stack, list[str]] = {}
    for task_id, stack in stacks.items():
        together.setdefault(stack, []).append(task_id)
    return encode_json(list(together.items())) + END


def read_stacks(data: bytes) -> dict[str, Stack]:
    """The same again, of what came before the end. Raises `msgspec.MsgspecError`."""
    return {task_id: stack for stack, ids in _decode_stacks(data.removesuffix(END)) for task_id in ids}


END: Final = b"\0"
"""The end of an answer: JSON has no such byte."""

_decode_stacks = JSONDecoder(list[tuple[Stack, list[str]]]).decode


def read_message(head: bytes, body: bytes) -> Message:
    """What a child said. Raises `msgspec.DecodeError`."""
    message: Message = _decode_message(head)
    if body and isinstance(message, Report):
        message.ran.value = body
    return message
