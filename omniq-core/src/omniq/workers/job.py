"""A claimed task on its way through a worker, and what came of running it."""

from __future__ import annotations

import time
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from omniq.models.redaction import Abridged
from omniq.models.task import Call
from omniq.storage.records import Lease, TaskRecord
from omniq.workers.context import TaskContext

LARGE = 64 * 1024
"""Bytes from which on a payload is worth the trouble of counting it, and of letting go of it early."""


class End(StrEnum):
    """How a run ended."""

    SUCCESS = "success"
    ERROR = "error"
    """It raised or timed out: retried as long as attempts are left."""
    FATAL = "fatal"
    """It can't succeed by another attempt: dead-lettered."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """It wasn't started before its TTL ended."""
    CRASHED = "crashed"
    """The child process that ran it died."""
    RELEASED = "released"
    """It wasn't run to its end, through no fault of its own: handed back uncharged."""
    LOST = "lost"
    """Its lease had passed on meanwhile: there is nothing to settle."""


class Ran(Abridged, Struct, array_like=True, kw_only=True, omit_defaults=True, gc=False):
    """What came of a run; it crosses process boundaries."""

    end: End
    value: bytes = b""
    value_format: str = ""
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    delay: float | None = None
    """Seconds until it may run again, if the task itself, or what was lacking for it, asks for a delay."""
    started_at: float | None = None


class Job:
    """A claimed task in this worker's hands."""

    __slots__ = (
        "alone",
        "call",
        "claimed_at",
        "context",
        "disturbed_by",
        "done",
        "ended_by",
        "record",
        "renewed_at",
        "size",
        "started_at",
    )

    def __init__(self, record: TaskRecord, call: Call, *, alone: bool = False) -> None:
        self.size = len(record.body)
        """Bytes of its packed call."""
        self.record = record if self.size < LARGE else replace(record, body=b"")
        self.call = call
        self.alone = alone
        """Whether nothing else may run beside it: its next crash would be its last."""
        self.claimed_at = self.renewed_at = time.monotonic()
        self.started_at: float | None = None
        self.context: TaskContext | None = None
        self.ended_by: End | None = None
        """Why it is being stopped from outside, if it is."""
        self.disturbed_by: End | None = None
        """How it ends if it is cancelled for no reason of the worker's: another task has cancelled all there is."""
        self.done = False
        """Whether it has been handed in."""

    @property
    def lease(self) -> Lease:
        return Lease(self.record.id, self.record.epoch, self.record.worker or "")

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self.record.attempts + 1

    def make_context(self) -> TaskContext:
        """The context that the task sees; its deadline counts from now.

        Its packed arguments have been unpacked by then, and large ones are let go of.
        """
        if self.size >= LARGE:
            self.call = replace(self.call, args=b"")
        self.context = TaskContext(self.record, self.call)
        return self.context
