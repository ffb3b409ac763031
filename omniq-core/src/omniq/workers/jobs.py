"""Tasks in a worker's hands: jobs, and where its parts meet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from omniq.models.config import Abridged
from omniq.models.task import Call
from omniq.storage.records import Lease, TaskRecord
from omniq.workers.context import TaskContext

# ── jobs ────────────────────────────────────────────────────────────────────


LARGE = 64 * 1024
"""Bytes from which on a payload is worth the trouble of counting it, and of letting go of it early."""


class RunStatus(StrEnum):
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


class RunResult(Abridged, Struct, array_like=True, kw_only=True, omit_defaults=True, gc=False):
    """What came of a run; it crosses process boundaries."""

    end: RunStatus
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
        "call",
        "claimed_at",
        "context",
        "disturbed_by",
        "done",
        "ended_by",
        "quarantined",
        "record",
        "renewed_at",
        "size",
        "started_at",
    )

    def __init__(self, record: TaskRecord, call: Call, *, quarantined: bool = False) -> None:
        self.size = len(record.body)
        """Bytes of its packed call."""
        self.record = record if self.size < LARGE else replace(record, body=b"")
        self.call = call
        self.quarantined = quarantined
        """Whether nothing else may run beside it: its next crash would be its last."""
        self.claimed_at = self.renewed_at = time.monotonic()
        self.started_at: float | None = None
        self.context: TaskContext | None = None
        self.ended_by: RunStatus | None = None
        """Why it is being stopped from outside, if it is."""
        self.disturbed_by: RunStatus | None = None
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


# ── in flight ───────────────────────────────────────────────────────────────


SAFE_PART = 0.9
"""Part of a lease within which a job may still be begun."""


class InFlight:
    """The jobs in this worker's hands: waiting for a slot, running, or done and not yet settled.

    `take`, `close`, `done` and `call_soon` may be called from any thread; the rest belongs to the worker's loop.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._buffer: deque[Job] = deque()
        self._done: deque[tuple[Job, RunResult]] = deque()
        self._signalled = False
        self._closed = False
        self._in_line = 0
        self._counting = threading.Lock()
        self.held: dict[str, Job] = {}
        """Every job whose lease is ours, by task id."""
        self.has_done = asyncio.Event()
        self.changed = asyncio.Event()
        """Set whenever a job has been settled, or a large one has left the line."""

    # ── from the fetcher ─────────────────────────────────────────────────────

    def accept(self, jobs: Iterable[Job]) -> None:
        """Put claimed jobs in line for a slot."""
        for job in jobs:
            self.held[job.record.id] = job
            if job.size >= LARGE:
                self._count(job.size)
            self._buffer.append(job)

    def hold(self, job: Job) -> None:
        """Keep a job's lease without putting it in line yet."""
        self.held[job.record.id] = job

    def accept_done(self, job: Job, ran: RunResult) -> None:
        """Take a job in hand only to settle it."""
        self.held[job.record.id] = job
        self.done(job, ran)

    def withdraw(self, keep: int = 0) -> list[Job]:
        """Take back all but the first `keep` jobs that no slot has taken."""
        jobs: list[Job] = []
        while len(self._buffer) > keep:
            try:
                jobs.append(self._buffer.pop())
            except IndexError:  # a slot was faster
                break
            if jobs[-1].size >= LARGE:
                self._count(-jobs[-1].size)
        return jobs

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def bytes_in_line(self) -> int:
        """Bytes of the large arguments that wait for a slot, and of the large results that wait for the store."""
        return self._in_line

    def _count(self, size: int) -> None:
        """Count a large payload in or out. Small ones are bounded by their number, and mustn't even cost a call."""
        with self._counting:
            self._in_line += size
        if size < 0:
            self.call_soon(self.changed.set)

    @property
    def oldest_wait(self) -> float:
        """Seconds for which the first job in line has been waiting for a slot."""
        try:
            return time.monotonic() - self._buffer[0].claimed_at
        except IndexError:
            return 0.0

    # ── from the slots ───────────────────────────────────────────────────────

    def take(self) -> Job | None:
        """The next job for a free slot.

        A job that was stopped meanwhile, or whose lease wasn't renewed in time, isn't begun: others may have it.
        """
        while not self._closed:
            try:
                job = self._buffer.popleft()
            except IndexError:
                return None
            if job.size >= LARGE:
                self._count(-job.size)
            if job.ended_by is not None:
                self.done(job, RunResult(end=job.ended_by))
            elif time.monotonic() - job.renewed_at > SAFE_PART * self._lease:
                self.done(job, RunResult(end=RunStatus.RELEASED))
            else:
                return job
        return None

    def close(self) -> None:
        """Let no more jobs be taken: the worker can't go on. From any thread."""
        self._closed = True

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Put jobs that were taken and not begun first in line again."""
        for job in reversed(list(jobs)):
            if job.size >= LARGE:
                self._count(job.size)
            self._buffer.appendleft(job)

    def done(self, job: Job, ran: RunResult) -> None:
        """Hand in what came of a job."""
        job.done = True
        if len(ran.value) >= LARGE:
            self._count(len(ran.value))
        self._done.append((job, ran))
        if not self._signalled:
            self._signalled = True
            self.call_soon(self.has_done.set)

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Let the worker's loop call this; where that is closed, nobody is left to care."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args, context=self._context)

    # ── from the settler ─────────────────────────────────────────────────────

    def collect(self, limit: int, max_bytes: int) -> list[tuple[Job, RunResult]]:
        """Up to `limit` jobs that are done, with results of `max_bytes` together; a larger one comes alone."""
        self._signalled = False
        self.has_done.clear()
        batch: list[tuple[Job, RunResult]] = []
        total, done = 0, self._done
        while done and len(batch) < limit:
            size = len(done[0][1].value)
            total += size
            if total > max_bytes and batch:
                break
            batch.append(done.popleft())
            if size >= LARGE:
                self._count(-size)
        if self._done:
            self.has_done.set()
        return batch

    def settled(self, jobs: Iterable[Job]) -> None:
        """Let go of jobs: they are settled or lost."""
        for job in jobs:
            # A task that was released and claimed again is another job under the same id.
            if self.held.get(job.record.id) is job:
                del self.held[job.record.id]
        self.changed.set()

    async def until_held_at_most(self, count: int) -> None:
        """Wait until no more than `count` jobs are in hand."""
        while len(self.held) > count:
            self.changed.clear()
            await self.changed.wait()
