"""The worker whose tasks run on greenlets, in a child process: nothing else sees a patched standard library."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from omniq.errors import WorkerError
from omniq.models.config import ChildProcessWorkerConfig
from omniq.texts import get_logger, install_command
from omniq.workers.base import Worker
from omniq.workers.children import ChildProcess, Started
from omniq.workers.execution import failure
from omniq.workers.jobs import Job, RunResult, RunStatus
from omniq.workers.messages import Message, SignOfLife, pack_stop, parts
from omniq.workers.process import ChildRunner

log = get_logger("omniq.worker")

MARGIN: Final = 1.0
"""Seconds that a task which was stopped has to end, until its process is killed: its greenlet lets nobody else run."""


class GreenletProcess(ChildProcess):
    """A child that runs all its jobs at once."""

    module = "omniq_gevent.child"

    def __init__(
        self, started: Started, on_message: Callable[[Any, Message], None], config: ChildProcessWorkerConfig
    ) -> None:
        super().__init__(started, on_message, config)
        self.jobs: dict[int, Job] = {}
        self.numbers: dict[Job, int] = {}
        self.timers: dict[int, asyncio.TimerHandle] = {}

    @property
    def is_idle(self) -> bool:
        return not self.jobs

    @property
    def running(self) -> list[Job]:
        return list(self.jobs.values())

    def give(self, jobs: Sequence[Job]) -> None:
        """Let it begin these jobs."""
        given = dict(zip(self._numbers(len(jobs)), jobs, strict=True))
        self.jobs |= given
        self.numbers |= {job: number for number, job in given.items()}
        self._send(given.items())

    def stop(self, job: Job, why: RunStatus | None) -> None:
        """Let it end a job."""
        for part in parts(pack_stop(self.numbers[job], why)):
            self._tasks.write(part)

    def ended(self, number: int) -> Job:
        """The job of that number, which is no longer its own."""
        job = self.jobs.pop(number)
        del self.numbers[job]
        if (timer := self.timers.pop(number, None)) is not None:
            timer.cancel()
        return job


class GreenletRunner(ChildRunner[GreenletProcess]):
    """Tasks on greenlets of one process, which takes them all along when it dies."""

    forks = False  # in the child, the greenlets of all other tasks would go on
    worker_name = "GeventPoolWorker"
    number_of_children = 1

    async def open(self) -> None:
        if importlib.util.find_spec("gevent") is None:
            raise WorkerError(f"GeventPoolWorker needs gevent: {install_command('gevent')}")
        await super().open()

    @property
    def slots(self) -> int:
        """As many as may run, unless there is only a child that takes no more."""
        return self.max_workers if any(child.takes_jobs for child in self._children) else self._running

    @property
    def _running(self) -> int:
        return sum(len(child.jobs) for child in self._children)

    def wake(self) -> None:
        for child in [child for child in self._children if child.takes_jobs]:
            most = min(self.max_workers - self._running, child.quota)
            jobs: list[Job] = []
            while len(jobs) < most and (job := self.line.take()) is not None:
                jobs.append(job)
            if jobs:
                child.give(jobs)
                for job in jobs:
                    self._begin(child, job)

    def stop_job(self, job: Job, why: RunStatus) -> None:
        """Kill its greenlet, and if that doesn't end it, the process."""
        if job.ended_by is None:
            job.ended_by = why
            self._stop(job, why)

    def end_silent(self, job: Job) -> None:
        if job.ended_by is None:
            job.silent = True
            self._stop(job, None)

    def _stop(self, job: Job, why: RunStatus | None) -> None:
        child = next((child for child in self._children if job in child.numbers), None)
        if child is not None:
            child.stop(job, why)
            self._kill_in(child, job, MARGIN)

    def _kill_in(self, child: GreenletProcess, job: Job, seconds: float) -> None:
        number = child.numbers[job]
        if (timer := child.timers.pop(number, None)) is not None:
            timer.cancel()
        child.timers[number] = self._loop.call_later(seconds, child.kill, job)

    # ── children ─────────────────────────────────────────────────────────────

    async def _start_child(self) -> GreenletProcess:
        return await GreenletProcess.start(self.execution, self._told, self.config)

    def _take_back(self, child: GreenletProcess) -> None:
        """Nothing: it begins what it is given at once."""

    def _hand_in(self, child: GreenletProcess) -> None:
        if child.jobs and child.killed_for is None and not self._closing:
            code, count = child.process.returncode, len(child.jobs)
            log.error("the process of %d tasks died (exit code %s)", count, code)
        for number in list(child.jobs):
            job = child.ended(number)
            self.line.done(job, self._what_killed(child, job))

    def _what_killed(self, child: GreenletProcess, job: Job) -> RunResult:
        if job.ended_by is not None:
            return RunResult(end=job.ended_by, started_at=job.started_at)
        # Several may be stuck, and the first one's time has ended it.
        if child.killed_for is job or job.silent or time.monotonic() > (job.deadline or math.inf):
            return failure(job, job.overdue)
        if child.killed_for is not None or self._closing:
            return RunResult(end=RunStatus.RELEASED)
        return RunResult(end=RunStatus.CRASHED)

    # ── jobs ─────────────────────────────────────────────────────────────────

    def _begin(self, child: GreenletProcess, job: Job) -> None:
        job.begin(self.execution.on_report)
        if self.on_start is not None:
            self.on_start(job)
        if job.ended_by is not None:
            self._stop(job, job.ended_by)
        elif job.call.timeout is not None:
            self._kill_in(child, job, job.call.timeout + MARGIN)

    def _told(self, child: GreenletProcess, message: Message) -> None:
        if isinstance(message, SignOfLife):
            if (job := child.jobs.get(message.number)) is not None:
                job.report(message.progress)
            return
        self.line.done(child.ended(message.number), message.ran)
        if message.leaving:
            child.spent.set()
        child.leave_if_done()
        self.wake()


class GeventPoolWorker(Worker):
    """Runs tasks on up to `max_workers` greenlets: for blocking code that waits, thousands at once."""

    kind = "gevent"
    default_max_workers = 100
    runner = GreenletRunner
    config_class = ChildProcessWorkerConfig
