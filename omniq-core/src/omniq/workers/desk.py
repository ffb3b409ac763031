"""Where fetcher, runner, lease keeper and settler of a worker meet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any

from omniq.workers.job import LARGE, End, Job, Ran

SAFE_PART = 0.9
"""Part of a lease within which a job may still be begun."""


class Desk:
    """The jobs in this worker's hands: waiting for a slot, running, or done and not yet settled.

    `take`, `close`, `done` and `call_soon` may be called from any thread; the rest belongs to the worker's loop.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._buffer: deque[Job] = deque()
        self._done: deque[tuple[Job, Ran]] = deque()
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

    def accept_done(self, job: Job, ran: Ran) -> None:
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
                self.done(job, Ran(end=job.ended_by))
            elif time.monotonic() - job.renewed_at > SAFE_PART * self._lease:
                self.done(job, Ran(end=End.RELEASED))
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

    def done(self, job: Job, ran: Ran) -> None:
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

    def collect(self, limit: int, max_bytes: int) -> list[tuple[Job, Ran]]:
        """Up to `limit` jobs that are done, with results of `max_bytes` together; a larger one comes alone."""
        self._signalled = False
        self.has_done.clear()
        batch: list[tuple[Job, Ran]] = []
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
