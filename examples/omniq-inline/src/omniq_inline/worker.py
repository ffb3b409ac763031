"""The worker that runs one task after the other, on the thread of its event loop."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from omniq.serialization.codec import LoadedCall
from omniq.workers.base import Worker
from omniq.workers.execution import Runner, failure, is_async
from omniq.workers.jobs import Job, RunResult, RunStatus


class InlineRunner(Runner):
    """Sync tasks run on the loop's thread, which does nothing else meanwhile; async ones on the loop."""

    concurrent = False
    preempts = False

    async def open(self) -> None:
        self._running: tuple[Job, asyncio.Task[None]] | None = None
        self._ran: RunResult | None = None

    def wake(self) -> None:
        if self._running is None and (job := self.line.take()) is not None:
            task = asyncio.get_running_loop().create_task(self._run(job))
            self._running = job, task
            task.add_done_callback(self._ended)

    def stop_job(self, job: Job, why: RunStatus) -> None:
        if job.ended_by is None:
            job.ended_by, job.cancelled = why, True
            self._cancel(job)

    def end_silent(self, job: Job) -> None:
        job.silent = job.cancelled = True
        self._cancel(job)

    async def close(self) -> None:
        if self._running is not None:
            job, task = self._running
            self.stop_job(job, RunStatus.RELEASED)
            await asyncio.wait([task], timeout=1.0)

    # ── running ──────────────────────────────────────────────────────────────

    def _cancel(self, job: Job) -> None:
        if self._running is not None and self._running[0] is job:
            self._running[1].cancel()

    async def _run(self, job: Job) -> None:
        self._ran = await self._result_of(job)

    async def _result_of(self, job: Job) -> RunResult:
        if self.on_start is not None:
            self.on_start(job)
        call = self.execution.load(job)
        if isinstance(call, RunResult):
            return call
        func = call.func if is_async(call.func) else partial(call_sync, call.func)
        return await self.execution.run_async(job, LoadedCall(func, call.args, call.kwargs))

    def _ended(self, task: asyncio.Task[None]) -> None:
        assert self._running is not None
        job, ran = self._running[0], self._ran
        self._running = self._ran = None
        if ran is None:  # it was cancelled before it began
            ran = RunResult(end=job.ended_by or RunStatus.RELEASED)
        if job.deadline is not None and time.monotonic() > job.deadline:
            ran = failure(job, job.overdue)
        self.line.done(job, ran)
        self.wake()


async def call_sync(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a sync function as if no loop ran here: it may run one of its own. What it returns may be awaited."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        value = func(*args, **kwargs)
    finally:
        asyncio._set_running_loop(loop)
    return await value if inspect.isawaitable(value) else value


class InlineWorker(Worker):
    """Runs one task after the other on its event loop: for programs that allow no thread and no process."""

    kind = "inline"
    default_max_workers = 1
    runner = InlineRunner
