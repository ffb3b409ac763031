"""The worker whose tasks run on its event loop."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from omniq.loops import end_child, forks, inside, is_a_tasks_code, is_own
from omniq.models.config import InProcessWorkerConfig, WorkerConfig
from omniq.serialization.codec import LoadedCall
from omniq.sync import in_running_loop
from omniq.texts import get_logger
from omniq.threads import new_future, outcome
from omniq.workers.base import Worker
from omniq.workers.execution import Execution, failure, is_async, within
from omniq.workers.jobs import Job, Line, RunResult, RunStatus
from omniq.workers.stacks import Stack, of_coroutine, of_threads
from omniq.workers.thread import CANCEL_PATIENCE, InProcessRunner, ThreadSlots, give_up_all
from omniq.workers.thread_loop import ThreadState

log = get_logger("omniq.worker")


class JobTask(asyncio.Task[Any]):
    """The task in which a job runs: none that belongs to another job can cancel it."""

    __slots__ = ("job", "loop_ends")
    job: Job
    loop_ends: bool
    """Whether a program cancels it, with all else on its loop."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it. Where a program does that to all on its own loop, to end that, the job is handed back."""
        job = getattr(self, "job", None)  # it has none before its first wait
        if job is not None and inside.get(None) is not job:
            if is_a_tasks_code():
                job.disturbed_by = RunStatus.RELEASED  # its children are being cancelled, too
                return False
            if not is_own(self.get_loop()):
                job.disturbed_by = RunStatus.RELEASED
                self.loop_ends = True
        return super().cancel(msg)


class WorkerLoop:
    """The worker's loop, for what a sync function gives its thread to await: so do plain wrappers of async ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: JobTask | None = None

    @property
    def busy(self) -> bool:
        return self._task is not None

    def run(self, awaitable: Awaitable[Any], *, timeout: float | None) -> Any:
        """Run it to its end on the loop, while this thread waits, in a copy of the caller's context."""
        ended: Future[tuple[Any, BaseException | None]] = new_future()
        try:
            self._loop.call_soon_threadsafe(self._begin, awaitable, timeout, ended, copy_context(), context=Context())
        except RuntimeError:  # the loop is closed
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise
        value, error = outcome(ended)
        if error is not None:
            raise error
        return value

    def cancel(self) -> None:
        if (task := self._task) is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(asyncio.Task.cancel, task, context=Context())

    def close(self) -> None:
        """It is the worker's."""

    def _begin(self, awaitable: Awaitable[Any], timeout: float | None, ended: Future[Any], context: Context) -> None:
        task = JobTask(_caught(within(timeout, awaitable)), loop=self._loop, context=context)
        task.job = context[inside]
        self._task = task
        task.add_done_callback(partial(self._hand_over, ended), context=Context())

    def _hand_over(self, ended: Future[Any], task: asyncio.Task[Any]) -> None:
        self._task = None
        ended.set_result((None, asyncio.CancelledError()) if task.cancelled() else task.result())


async def _caught(work: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What the work returns, or raises: a `SystemExit` that leaves a task takes the loop along."""
    before = forks()
    try:
        value, error = await work, None
    except BaseException as raised:
        if isinstance(raised, GeneratorExit) and not in_running_loop():
            raise  # the loop is gone
        value, error = None, raised
    if forks() != before:
        end_child(error)  # only the task's own code is the child's business
    return value, error


class LoopRunner(InProcessRunner):
    """Async tasks run on the worker's loop, sync ones on threads beside it."""

    def __init__(
        self, line: Line, execution: Execution, *, max_workers: int, config: WorkerConfig | None = None
    ) -> None:
        super().__init__(line, execution, max_workers=max_workers, config=config)
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        """For timers: a loop keeps the context of cancelled ones."""
        self._state = ThreadState()
        self._waking = self._halted = False
        self._free = max_workers
        self._tasks: dict[Job, JobTask] = {}
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._given_up: set[JobTask] = set()
        self._sync: deque[Job] = deque()
        self._slots = ThreadSlots(
            execution,
            size=max_workers,
            take=self._take_sync,
            waiting=self._sync.__len__,
            done=self._sync_done,
            make_loop=partial(WorkerLoop, self._loop),
        )
        self._slots.on_give_up = self._note_abandoned

    @property
    def abandoned(self) -> int:
        return len(self._given_up) + self._slots.abandoned

    async def open(self) -> None:
        self._slots.on_start, self._slots.on_failure = self.on_start, self.on_failure

    def resize(self, max_workers: int) -> None:
        self._free += max_workers - self.max_workers
        self._slots.resize(max_workers)
        super().resize(max_workers)

    def wake(self) -> None:
        if self._waking or self._halted:  # a task has ended while it was being started below: that loop goes on
            return
        self._waking = True
        try:
            for _ in range(BURST):
                if self._free <= 0 or (job := self.line.take()) is None:
                    return
                self._free -= 1
                self._start(job)
        finally:
            self._waking = False
        self._loop.call_soon(self.wake, context=self._context)

    def stop_job(self, job: Job, why: RunStatus) -> None:
        task = self._tasks.get(job)
        if task is None:
            self._slots.stop_job(job, why)
        elif job.ended_by is None:
            job.ended_by = why
            job.cancelled = True
            if job.started_at is not None:  # else it hasn't begun and won't
                task.cancel()

    def end_silent(self, job: Job) -> None:
        task = self._tasks.get(job)
        if task is None:
            self._slots.end_silent(job)
        elif job.ended_by is None:
            job.silent = job.cancelled = True
            self._disarm(job)
            self._arm(job, 0.0)
            asyncio.Task.cancel(task)  # not what a worker makes of cancellations by others

    async def stacks(self) -> dict[str, Stack]:
        waiting = {job.record.id: of_coroutine(task.get_coro()) for job, task in list(self._tasks.items())}
        return waiting | of_threads()

    def take_back(self) -> None:
        while (waiting := self._take_sync()) is not None:
            self._free += 1
            self.line.put_back([waiting])

    def call_off(self) -> list[Job]:
        waiting = [job for job in list(self._tasks) if job.started_at is None and job.ended_by is None]
        for job in waiting:
            job.ended_by = RunStatus.RELEASED
        return [*iter(self._take_sync, None), *(job for job in waiting if job.started_at is None)]

    async def close(self) -> None:
        self._closing = True
        while (waiting := self._take_sync()) is not None:
            self._ended(waiting, RunResult(end=RunStatus.RELEASED))
        await asyncio.gather(give_up_all(self._slots), self._cancel_all())
        await asyncio.sleep(0)  # what was given up is handed in by then

    async def _cancel_all(self) -> None:
        for job in list(self._tasks):
            self.stop_job(job, RunStatus.RELEASED)
        for task in self._given_up:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=CANCEL_PATIENCE)
        for job in list(self._tasks):
            self._give_up(job, RunResult(end=RunStatus.RELEASED, started_at=job.started_at))

    def _start(self, job: Job) -> None:
        call = self.execution.load(job)
        if not isinstance(call, LoadedCall):
            self._free += 1
            self.line.done(job, call)
        elif is_async(call.func):
            # A context of its own: whoever wakes this up may be in that of another task.
            task = self._create_task(self._run(job, call), job.record.id)
            if not task.done():
                task.job = job
                self._tasks[job] = task
                if job.call.timeout is not None:
                    self._arm(job, job.call.timeout)
        else:
            self._sync.append(job)
            self._slots.wake()

    def _create_task(self, coroutine: Coroutine[Any, Any, None], name: str) -> JobTask:
        if sys.version_info >= (3, 12):
            # It runs up to its first wait at once, without a turn of the loop: many tasks never wait.
            return JobTask(coroutine, loop=self._loop, name=name, context=Context(), eager_start=True)
        return JobTask(coroutine, loop=self._loop, name=name, context=Context())

    def _arm(self, job: Job, timeout: float) -> None:
        # It is cancelled by then; it is given up only if that doesn't end it.
        seconds = timeout + CANCEL_PATIENCE
        self._timers[job] = self._loop.call_later(seconds, self._time_out, job, context=self._context)

    def _time_out(self, job: Job) -> None:
        self._give_up(job, failure(job, job.overdue))

    def _give_up(self, job: Job, ran: RunResult) -> None:
        """Hand in `ran` for a job whose task goes on though it was cancelled."""
        log.warning("task %s goes on running though it was cancelled", job.record.id)
        task = self._tasks.pop(job)
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard, context=self._context)
        job.cancelled = True
        self._disarm(job)
        self._ended(job, ran)
        self._note_abandoned()

    def _disarm(self, job: Job) -> None:
        if (timer := self._timers.pop(job, None)) is not None:
            timer.cancel()

    async def _run(self, job: Job, call: LoadedCall) -> None:
        if job.ended_by is None:
            if self.on_start is not None:
                self.on_start(job)
            ran = await self.execution.run_async(job, call)
        else:
            ran = RunResult(end=job.ended_by)
        try:
            self._state.restore()
        finally:  # a signal that the task had blocked may come now, and its handler exit
            self._hand_in(job, ran)

    def _hand_in(self, job: Job, ran: RunResult) -> None:
        if job.ended_by is None and getattr(asyncio.current_task(), "loop_ends", False):
            self._halted = True  # nothing more can be begun on it
        if not job.done:  # else it was given up
            self._tasks.pop(job, None)
            if job.call.timeout is not None or job.silent:
                self._disarm(job)
            self._ended(job, ran)

    def _ended(self, job: Job, ran: RunResult) -> None:
        self._free += 1
        self.line.done(job, ran)
        self.wake()

    def _take_sync(self) -> Job | None:
        try:
            return self._sync.popleft()
        except IndexError:
            return None

    def _sync_done(self, job: Job, ran: RunResult) -> None:
        self.line.call_soon(self._ended, job, ran)


BURST = 100
"""Tasks that are started before the loop gets its turn."""


class AsyncWorker(Worker):
    """Runs async tasks on one event loop and sync ones on threads: for tasks that wait on the network."""

    kind = "async"
    default_max_workers = 100
    runner = LoopRunner
    config_class = InProcessWorkerConfig
