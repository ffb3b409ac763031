"""Tasks in a worker's hands: what a task sees of its run, jobs, and where a worker's parts meet."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context, ContextVar
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from omniq import clock
from omniq.errors import HeartbeatTimeout, NoCurrentTask, TaskTimeout
from omniq.loops import inside
from omniq.models.config import Abridged
from omniq.models.result import Progress
from omniq.models.task import Call
from omniq.serialization.parents import ParentResult
from omniq.storage.records import Lease, TaskRecord
from omniq.threads import new_lock

# ── context ─────────────────────────────────────────────────────────────────


class TaskContext:
    """The task that is running here: `omniq.current_task()`."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskContext) and other._job is self._job

    def __hash__(self) -> int:
        return hash(self._job)

    @property
    def id(self) -> str:
        return self._job.record.id

    @property
    def queue_name(self) -> str:
        return self._job.record.queue_name

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self._job.attempt

    @property
    def max_retries(self) -> int:
        return self._job.call.max_retries

    @property
    def epoch(self) -> int:
        """Rises with every claim: a fencing token for the task's own writes elsewhere."""
        return self._job.record.epoch

    @property
    def deadline(self) -> float | None:
        """On `time.monotonic()`'s clock; None when the task has no timeout."""
        return self._job.deadline

    @property
    def metadata(self) -> dict[str, Any]:
        return self._job.call.metadata

    @property
    def schedule_id(self) -> str | None:
        return self._job.record.schedule_id

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop: it was cancelled, timed out or lost its lease.

        Async tasks are cancelled by themselves; a long task on a thread looks here.
        """
        return self._job.cancelled

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, at least 0; None when there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the task has come, 0 to 1, for `peek_result` and `watch`; it is a heartbeat, too.

        It returns at once, may be called from any thread and as often as you like: the worker stores the latest once a
        second, for all its tasks together. Raises `InvalidTask` for what is no such number, or no text; a message is
        cut to 1,024 characters.
        """
        self._job.report(Progress.of(fraction, message))

    def heartbeat(self) -> None:
        """Give a sign of life, which a task with a `heartbeat_timeout` owes its worker. It returns at once."""
        self._job.report()


current: ContextVar[Job] = inside


def current_task() -> TaskContext:
    """The task that is running here. Raises `NoCurrentTask` outside one."""
    try:
        return TaskContext(current.get())
    except LookupError:
        raise NoCurrentTask("current_task() was called outside a running task") from None


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


SUCCEEDED: Final = RunStatus.SUCCESS
"""As `RunStatus` has it: a member of an enum takes its time to be found, and this one is asked for with every task."""


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


class Job(Abridged, Struct, eq=False, gc=False):
    """A claimed task in this worker's hands. Like a record, it is none of the garbage collector's business."""

    record: TaskRecord
    call: Call
    claimed_at: float = field(default_factory=time.monotonic)
    """On `time.monotonic()`'s clock, as the next two."""
    renewed_at: float = 0.0
    deadline: float | None = None
    """None when it has no timeout, and until it begins."""
    quarantined: bool = False
    """Whether nothing else may run beside it: its next crash would be its last."""
    started_at: float | None = None
    """Seconds since the epoch; None until it begins."""
    cancelled: bool = False
    """Whether it was told to stop, or was given up."""
    ended_by: RunStatus | None = None
    """Why it is being stopped from outside, if it is."""
    disturbed_by: RunStatus | None = None
    """How it ends if it is cancelled for no reason of the worker's: another task has cancelled all there is."""
    done: bool = False
    """Whether it has been handed in."""
    size: int = 0
    """Bytes of its packed call, and of its parents' results."""
    parents: tuple[ParentResult, ...] = ()
    """Those of the tasks whose results are among its arguments."""
    progress: Progress | None = None
    """How far it has come, as it said last."""
    in_line: bool = False
    """Whether its progress is about to be stored."""
    alive_at: float = 0.0
    """When it gave its last sign of life, on `time.monotonic()`'s clock."""
    silent: bool = False
    """Whether it is being ended for want of one."""
    on_report: Callable[[Job, Progress | None], None] | None = None
    """Told of each sign of life; None until it begins."""

    def __post_init__(self) -> None:
        self.renewed_at = self.claimed_at
        self.size = len(self.record.body)
        if self.size >= LARGE:
            self.record = replace(self.record, body=b"")

    def take_parents(self, results: Iterable[ParentResult]) -> None:
        """Keep the results that are among its arguments, until it begins."""
        self.parents = tuple(results)
        self.size += sum(len(result.value) for result in self.parents)

    @property
    def lease(self) -> Lease:
        return Lease(self.record.id, self.record.epoch, self.record.worker or "")

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self.record.attempts + 1

    def may_start_in(self, delay: float) -> bool:
        """Whether its TTL allows it to be started in so many seconds, by the store's clock."""
        record = self.record
        if record.expires_at is None or record.claimed_at is None:
            return True
        return record.claimed_at + (time.monotonic() - self.claimed_at) + delay < record.expires_at

    @property
    def overdue(self) -> TaskTimeout:
        """The error of a job that has run, or given no sign of life, for too long."""
        if self.silent:
            return HeartbeatTimeout(f"gave no sign of life for {self.call.heartbeat_timeout:g} s")
        return TaskTimeout(f"ran longer than its timeout of {self.call.timeout:g} s")

    def begin(self, on_report: Callable[[Job, Progress | None], None] | None = None) -> None:
        """It runs from now on, and `on_report` is told what it says of itself.

        Its packed arguments have been unpacked by then, and large ones are let go of.
        """
        self.started_at = clock.now()
        self.on_report = on_report
        if self.call.timeout is not None:
            self.deadline = time.monotonic() + self.call.timeout
        if self.size >= LARGE:
            self.call, self.parents = replace(self.call, args=b""), ()

    def report(self, progress: Progress | None = None) -> None:
        """Take a sign of life, and how far it has come; from any thread."""
        self.alive_at = time.monotonic()
        if progress is not None:
            self.progress = progress
        if self.on_report is not None:
            self.on_report(self, progress)


# ── in flight ───────────────────────────────────────────────────────────────


SAFE_PART = 0.9
"""Part of a lease within which a job may still be begun."""


class Line:
    """The jobs that wait for the slots of one kind, in order. `take` and `len` may be asked from any thread."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._jobs: deque[Job] = deque()
        self.held = 0
        """How many jobs of this kind are in hand, in line or not."""
        self.settled = 0
        """How many have been let go of."""
        self.done = in_flight.done
        self.call_soon = in_flight.call_soon
        self.changed = in_flight.changed

    def __len__(self) -> int:
        return len(self._jobs)

    def append(self, job: Job) -> None:
        """Put it last in line."""
        if job.size >= LARGE:
            self._in_flight.count(job.size)
        self._jobs.append(job)

    def take(self) -> Job | None:
        """The next job for a free slot.

        A job that was stopped meanwhile, or whose TTL is over, isn't begun; nor is one whose lease wasn't renewed in
        time: others may have it.
        """
        while not self._in_flight.closed:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return None
            if job.size >= LARGE:
                self._in_flight.count(-job.size)
            if (end := self._in_flight.end_of(job)) is None:
                return job
            self.done(job, RunResult(end=end))
        return None

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Put jobs that were taken and not begun first in line again."""
        for job in reversed(list(jobs)):
            if job.size >= LARGE:
                self._in_flight.count(job.size)
            self._jobs.appendleft(job)

    def withdraw(self, keep: int = 0) -> list[Job]:
        """Take back all but the first `keep` jobs that no slot has taken."""
        jobs: list[Job] = []
        while len(self._jobs) > keep:
            try:
                jobs.append(self._jobs.pop())
            except IndexError:  # a slot was faster
                break
            if jobs[-1].size >= LARGE:
                self._in_flight.count(-jobs[-1].size)
        return jobs

    @property
    def oldest_wait(self) -> float:
        """Seconds for which the first job in line has been waiting for a slot."""
        try:
            return time.monotonic() - self._jobs[0].claimed_at
        except IndexError:
            return 0.0


class InFlight:
    """The jobs in this worker's hands: waiting for a slot, running, or done and not yet settled.

    `close`, `done`, `count` and `call_soon` may be called from any thread; the rest belongs to the worker's loop.
    """

    def __init__(self, lease: float, kind: str = "") -> None:
        self._safe = SAFE_PART * lease
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._done: deque[tuple[Job, RunResult]] = deque()
        self._signalled = False
        self.closed = False
        self._in_line = 0
        self._counting = new_lock()
        self.held: dict[str, Job] = {}
        """Every job whose lease is ours, by task id."""
        self.has_done = asyncio.Event()
        self.changed = asyncio.Event()
        """Set whenever a job has been settled, or a large one has left the line."""
        self.main = Line(self)
        """The jobs of this worker's own kind, among them those that ask for none."""
        self._kind = kind
        self.lines: dict[str, Line] = {}
        """Those of other kinds."""

    # ── from the fetcher ─────────────────────────────────────────────────────

    def accept(self, jobs: Iterable[Job]) -> None:
        """Put claimed jobs in line for a slot."""
        for job in jobs:
            self.hold(job).append(job)

    def hold(self, job: Job) -> Line:
        """Keep a job's lease without putting it in its line yet, which is returned."""
        line = self.main if job.call.worker is None else self.line_of(job)
        if job.record.id not in self.held:
            line.held += 1
        self.held[job.record.id] = job
        return line

    def line_of(self, job: Job) -> Line:
        """Where a job waits, or has waited."""
        kind = job.call.worker
        if kind is None or kind == self._kind:
            return self.main
        line = self.lines.get(kind)
        if line is None:
            line = self.lines[kind] = Line(self)
        return line

    def accept_done(self, job: Job, ran: RunResult) -> None:
        """Take a job in hand only to settle it."""
        self.hold(job)
        self.done(job, ran)

    def withdraw(self) -> list[Job]:
        """Take back all jobs that no slot has taken."""
        return [job for line in self.all_lines() for job in line.withdraw()]

    def all_lines(self) -> list[Line]:
        return [self.main, *self.lines.values()]

    @property
    def buffered(self) -> int:
        return sum(map(len, self.all_lines()))

    @property
    def bytes_in_line(self) -> int:
        """Bytes of the large arguments that wait for a slot, and of the large results that wait for the store."""
        return self._in_line

    def count(self, size: int) -> None:
        """Count a large payload in or out. Small ones are bounded by their number, and mustn't even cost a call."""
        with self._counting:
            self._in_line += size
        if size < 0:
            self.call_soon(self.changed.set)

    # ── from the slots ───────────────────────────────────────────────────────

    def end_of(self, job: Job) -> RunStatus | None:
        """What becomes of a job that mustn't be begun any more; None if it may be."""
        if job.ended_by is not None:
            return job.ended_by
        if time.monotonic() - job.renewed_at > self._safe:
            return RunStatus.RELEASED
        return None if job.may_start_in(0.0) else RunStatus.EXPIRED

    def close(self) -> None:
        """Let no more jobs be taken: the worker can't go on. From any thread."""
        self.closed = True

    def done(self, job: Job, ran: RunResult) -> None:
        """Hand in what came of a job."""
        job.done = True
        if len(ran.value) >= LARGE:
            self.count(len(ran.value))
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
                self.count(-size)
        if self._done:
            self.has_done.set()
        return batch

    def settled(self, jobs: Iterable[Job]) -> None:
        """Let go of jobs: they are settled or lost."""
        for job in jobs:
            # A task that was released and claimed again is another job under the same id.
            if self.held.get(job.record.id) is job:
                del self.held[job.record.id]
                line = self.main if job.call.worker is None else self.line_of(job)
                line.held -= 1
                line.settled += 1
        self.changed.set()

    async def until_held_at_most(self, count: int) -> None:
        """Wait until no more than `count` jobs are in hand."""
        while len(self.held) > count:
            self.changed.clear()
            await self.changed.wait()
