"""The worker whose tasks run on its event loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque

from omniq.serialization.calls import LoadedCall
from omniq.workers.base import Worker
from omniq.workers.desk import Desk
from omniq.workers.execution import Execution
from omniq.workers.job import End, Job, Ran
from omniq.workers.runner import Runner
from omniq.workers.threads import ThreadSlots, give_up_all


class LoopRunner(Runner):
    """Async tasks run on the worker's loop, sync ones on threads beside it."""

    def __init__(self, desk: Desk, execution: Execution, *, max_workers: int) -> None:
        super().__init__(desk, execution, max_workers=max_workers)
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._free = max_workers
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._sync: deque[Job] = deque()
        self._slots = ThreadSlots(
            execution, size=max_workers, take=self._take_sync, waiting=self._sync.__len__, done=self._sync_done
        )

    async def open(self) -> None:
        self._slots.on_start = self.on_start

    def wake(self) -> None:
        while self._free > 0 and (job := self.desk.take()) is not None:
            self._free -= 1
            self._start(job)

    def stop_job(self, job: Job, why: End) -> None:
        task = self._tasks.get(job)
        if task is None:
            self._slots.stop_job(job, why)
        elif job.ended_by is None:
            job.ended_by = why
            if job.context is not None:  # else it hasn't begun and won't
                job.context.cancel()
                task.cancel()

    async def close(self) -> None:
        for job in list(self._tasks):
            self.stop_job(job, End.RELEASED)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=CANCEL_PATIENCE)
        while (job := self._take_sync()) is not None:
            self._ended(job, Ran(end=End.RELEASED))
        give_up_all(self._slots)

    def _start(self, job: Job) -> None:
        call = self.execution.load(job)
        if isinstance(call, Ran):
            self._free += 1
            self.desk.done(job, call)
        elif inspect.iscoroutinefunction(call.func):
            # A copy of the worker's own context: whoever wakes this up may be in that of another task.
            self._tasks[job] = self._loop.create_task(self._run(job, call), context=self._context.copy())
        else:
            self._sync.append(job)
            self._slots.wake()

    async def _run(self, job: Job, call: LoadedCall) -> None:
        if job.ended_by is None:
            self.on_start(job)
            ran = await self.execution.run_async(job, call)
        else:
            ran = Ran(end=job.ended_by)
        del self._tasks[job]
        self._ended(job, ran)

    def _ended(self, job: Job, ran: Ran) -> None:
        self._free += 1
        self.desk.done(job, ran)
        self.wake()

    def _take_sync(self) -> Job | None:
        try:
            return self._sync.popleft()
        except IndexError:
            return None

    def _sync_done(self, job: Job, ran: Ran) -> None:
        self._loop.call_soon_threadsafe(self._ended, job, ran)


CANCEL_PATIENCE = 1.0
"""Seconds that a cancelled async task has to clean up when the worker closes."""


class AsyncWorker(Worker):
    """Runs async tasks on one event loop and sync ones on threads: for tasks that wait on the network."""

    kind = "async"
    default_max_workers = 100
    runner = LoopRunner
