"""The worker whose tasks run on its event loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any

from omniq.serialization.calls import LoadedCall
from omniq.workers.base import Worker
from omniq.workers.desk import Desk
from omniq.workers.execution import Execution
from omniq.workers.job import End, Job, Ran
from omniq.workers.runner import Runner
from omniq.workers.threads import CANCEL_PATIENCE, ThreadSlots, give_up_all

log = logging.getLogger("omniq.worker")


class LoopRunner(Runner):
    """Async tasks run on the worker's loop, sync ones on threads beside it."""

    def __init__(self, desk: Desk, execution: Execution, *, max_workers: int) -> None:
        super().__init__(desk, execution, max_workers=max_workers)
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._waking = False
        self._free = max_workers
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._sync: deque[Job] = deque()
        self._slots = ThreadSlots(
            execution, size=max_workers, take=self._take_sync, waiting=self._sync.__len__, done=self._sync_done
        )

    async def open(self) -> None:
        self._slots.on_start, self._slots.on_failure = self.on_start, self.on_failure

    def wake(self) -> None:
        if self._waking:  # a task has ended while it was being started below: that loop goes on
            return
        self._waking = True
        try:
            for _ in range(BURST):
                if self._free == 0 or (job := self.desk.take()) is None:
                    return
                self._free -= 1
                self._start(job)
        finally:
            self._waking = False
        self._loop.call_soon(self.wake)

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
        while (waiting := self._take_sync()) is not None:
            self._ended(waiting, Ran(end=End.RELEASED))
        await asyncio.gather(give_up_all(self._slots), self._cancel_all())
        await asyncio.sleep(0)  # what was given up is handed in by then

    async def _cancel_all(self) -> None:
        for job in list(self._tasks):
            self.stop_job(job, End.RELEASED)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=CANCEL_PATIENCE)
        for job in self._tasks:
            log.warning("task %s goes on running though it was cancelled", job.record.id)
            self.desk.done(job, Ran(end=End.RELEASED, started_at=job.started_at))

    def _start(self, job: Job) -> None:
        call = self.execution.load(job)
        if isinstance(call, Ran):
            self._free += 1
            self.desk.done(job, call)
        elif inspect.iscoroutinefunction(call.func):
            # A copy of the worker's own context: whoever wakes this up may be in that of another task.
            task = self._create_task(self._run(job, call), self._context.copy())
            if not task.done():
                self._tasks[job] = task
        else:
            self._sync.append(job)
            self._slots.wake()

    def _create_task(self, coroutine: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        if sys.version_info >= (3, 12):
            # It runs up to its first wait at once, without a turn of the loop: many tasks never wait.
            return asyncio.Task(coroutine, loop=self._loop, context=context, eager_start=True)
        return self._loop.create_task(coroutine, context=context)

    async def _run(self, job: Job, call: LoadedCall) -> None:
        if job.ended_by is None:
            self.on_start(job)
            ran = await self.execution.run_async(job, call)
        else:
            ran = Ran(end=job.ended_by)
        self._tasks.pop(job, None)
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


BURST = 100
"""Tasks that are started before the loop gets its turn."""


class AsyncWorker(Worker):
    """Runs async tasks on one event loop and sync ones on threads: for tasks that wait on the network."""

    kind = "async"
    default_max_workers = 100
    runner = LoopRunner
