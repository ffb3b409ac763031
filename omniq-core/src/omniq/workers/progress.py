"""What running tasks say of themselves: signs of life that are watched for, and progress that is stored."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from operator import attrgetter
from typing import Final

from omniq import clock
from omniq.callbacks import Kind, TaskUpdate
from omniq.clock import utc
from omniq.errors import StoreError, ValueRefused
from omniq.loops import forks
from omniq.models.event import EventType
from omniq.models.result import Outcome, Progress, TaskResult
from omniq.models.task import TaskState
from omniq.queue.stores import Stores
from omniq.storage.base import carry_out
from omniq.storage.records import ResultRecord, result_bytes
from omniq.texts import get_logger
from omniq.workers.jobs import InFlight, Job, RunResult

log = get_logger("omniq.worker")

# ── progress ────────────────────────────────────────────────────────────────


STORE_INTERVAL: Final = 1.0
"""Seconds between two writes of progress."""
PROGRESS_TTL: Final = 86_400.0
"""Seconds for which it is kept unless it is replaced, by more or by the task's end."""


class ProgressWriter:
    """Stores what a worker's tasks have said last of how far they have come, for all of them in one call a second.

    It is best effort: no task waits for it, and a store that is away gets the latest when it is back.
    """

    def __init__(self, stores: Stores, in_flight: InFlight, *, worker: str) -> None:
        self._serialization = stores.serialization
        self._results = stores.results
        self._in_flight = in_flight
        self._worker = worker
        self._forks = forks()
        self._line: deque[Job] = deque()
        self._signalled = False
        self._news = asyncio.Event()
        self._away = False

    def report(self, job: Job, progress: Progress | None) -> None:
        """Take note that a job has said something; from any thread."""
        if progress is None or job.in_line or job.done or self._results is None or forks() != self._forks:
            return
        job.in_line = True
        self._line.append(job)
        if not self._signalled:
            self._signalled = True
            self._in_flight.call_soon(self._news.set)

    async def run(self) -> None:
        """Store until cancelled."""
        while True:
            await self._news.wait()
            self._signalled = False
            self._news.clear()
            await self._store(self._take())
            await asyncio.sleep(STORE_INTERVAL)

    def _take(self) -> list[Job]:
        """The jobs that have said something and go on."""
        jobs: list[Job] = []
        while self._line:
            job = self._line.popleft()
            job.in_line = False  # before its progress is read: what it says from now on puts it in line again
            if not job.done:
                jobs.append(job)
        return jobs

    async def _store(self, jobs: list[Job]) -> None:
        records = [self._record(job) for job in jobs]
        assert self._results is not None
        try:
            await carry_out(self._results, self._results.put, records, id_of=_id_of, size=result_bytes)
        except ValueRefused as error:
            log.warning("the progress of %d tasks isn't stored: %s", len(jobs), error)
        except StoreError as error:
            self._note_away(error)
            for job in jobs:
                self.report(job, job.progress)
        else:
            self._away = False

    def _note_away(self, error: StoreError) -> None:
        if not self._away:  # once is enough
            log.warning("progress can't be stored, trying again: %s", error)
        self._away = True

    def _record(self, job: Job) -> ResultRecord:
        id_, epoch, status = job.record.id, job.record.epoch, TaskState.RUNNING
        outcome = Outcome(attempts=job.attempt, started_at=job.started_at, worker=self._worker, progress=job.progress)
        body = self._serialization.pack_outcome(outcome, task_id=id_, epoch=epoch, status=status, schedule_id=None)
        return ResultRecord(task_id=id_, epoch=epoch, status=status, body=body, ttl=PROGRESS_TTL)


_id_of = attrgetter("task_id")

# ── signs of life ───────────────────────────────────────────────────────────


LOOK_INTERVAL: Final = 0.25
"""Seconds between two looks at most: so soon it lets go of jobs that are done."""
STALL: Final = 0.1
"""Seconds by which a look may be late; what is more is a loop that stood still, and no fault of its tasks."""


class HeartbeatWatch:
    """Ends the jobs that gave no sign of life for their `heartbeat_timeout`. On the worker's loop."""

    def __init__(self, end: Callable[[Job], None]) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._watched: dict[Job, float] = {}
        """The jobs, and for how many seconds each may be silent."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, job: Job) -> None:
        """Watch a job that has just been started, if it has to give signs of life."""
        if job.call.heartbeat_timeout is not None and not job.done:
            job.alive_at = max(job.alive_at, time.monotonic())
            self._watched[job] = job.call.heartbeat_timeout
            self._plan()

    def close(self) -> None:
        """Watch no longer."""
        self._watched.clear()
        self._plan()

    def _plan(self) -> None:
        """Look again when the first may be due, and soon."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched:
            now = time.monotonic()
            first = min(job.alive_at + silence - now for job, silence in self._watched.items())
            delay = min(LOOK_INTERVAL, max(0.0, first))
            self._timer = self._loop.call_later(delay, self._look, now + delay, context=Context())

    def _look(self, planned: float) -> None:
        now = time.monotonic()
        stalled = now - planned
        for job, silence in list(self._watched.items()):
            if stalled > STALL:
                job.alive_at += stalled
            if job.done:
                del self._watched[job]
            elif now - job.alive_at >= silence:
                del self._watched[job]
                log.warning("task %s gives no sign of life and is ended", job.record.id)
                self._end(job)
        self._plan()


# ── starts ──────────────────────────────────────────────────────────────────


class Starts:
    """What follows the start of a job: it is logged and told to callbacks, and watched for signs of life."""

    def __init__(
        self,
        in_flight: InFlight,
        watch: HeartbeatWatch,
        stores: Stores,
        *,
        worker: str,
    ) -> None:
        self._in_flight = in_flight
        self._watch = watch
        self._stores = stores
        self._events = stores.events
        self._callbacks = stores.callbacks
        self._to_call = stores.callbacks.started
        self._worker = worker

    def note(self, job: Job) -> None:
        """A job starts. On the thread that runs it."""
        if self._events is not None or self._to_call or job.call.heartbeat_timeout is not None:
            self._in_flight.call_soon(self._noted, job, clock.now())

    def _noted(self, job: Job, at: float) -> None:
        self._watch.begin(job)
        if self._to_call:
            self._callbacks.tell(self._to_call, update(job, "started", self._worker, at=at))
        self._stores.log_task(EventType.EXECUTING, job.record, worker=self._worker, attempt=job.attempt, time=at)


# ── updates ─────────────────────────────────────────────────────────────────


def update(
    job: Job,
    kind: Kind,
    worker: str,
    *,
    at: float | None = None,
    ran: RunResult | None = None,
    retry_in: float | None = None,
    result: TaskResult | None = None,
) -> TaskUpdate:
    """What callbacks are told of a job; now, unless it was `at` another time."""
    told = result or ran  # a result may say more, as of a task that has crashed too often
    return TaskUpdate(
        kind=kind,
        task_id=job.record.id,
        name=job.record.name,
        queue_name=job.record.queue_name,
        at=utc(clock.now() if at is None else at),
        schedule_id=job.record.schedule_id,
        worker=worker,
        attempt=job.attempt,
        error_type=None if told is None else told.error_type,
        error_message=None if told is None else told.error_message,
        retry_in=retry_in,
        result=result,
    )
