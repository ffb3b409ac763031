"""The worker whose tasks run in child processes."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from abc import abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from omniq import clock
from omniq.batching import Backoff
from omniq.errors import WorkerError
from omniq.models.config import ChildProcessWorkerConfig, WorkerConfig
from omniq.texts import get_logger
from omniq.threads import is_patched
from omniq.workers.base import Worker
from omniq.workers.execution import Execution, Runner, failure
from omniq.workers.jobs import LARGE, Job, Line, RunResult, RunStatus
from omniq.workers.messages import Message, Report, SignOfLife
from omniq.workers.stacks import Stack

if TYPE_CHECKING:  # it needs what only POSIX has
    from omniq.workers.children import Child, ChildProcess

log = get_logger("omniq.worker")

CHUNK_SECONDS: Final = 0.005
"""A child gets as many short tasks at once as take about so long."""
MAX_CHUNK: Final = 64
FEW: Final = (1, 16)
"""How many jobs a child still has when it gets more, so that it needn't wait for them."""
SHORT: Final = 0.05
"""Seconds that tasks of a function take at most which are given to a child that still runs another one."""
LATE: Final = 0.1
"""Seconds after which a task that was taken for a short one no longer keeps those behind it waiting."""
SOON: Final = 1.0
"""Seconds that a task's TTL must still last if it is to wait in a child behind others."""
FAILED_STARTS: Final = 7
"""Attempts to start a child that fail in a row until a worker without any other child gives up."""
FIRST_PAUSE, MAX_PAUSE = 0.1, 2.0
"""Seconds between two of them: 5 s in all."""


C = TypeVar("C", bound="ChildProcess")


class ChildRunner(Runner, Generic[C]):
    """Has child processes at any time, which run its jobs: a new one whenever one ends.

    A subclass says of which class they are, and what becomes of their jobs.
    """

    worker_name: ClassVar[str]
    """The class of its workers, for errors."""

    def __init__(
        self, line: Line, execution: Execution, *, max_workers: int, config: WorkerConfig | None = None
    ) -> None:
        super().__init__(line, execution, max_workers=max_workers, config=config)
        self.config = config if isinstance(config, ChildProcessWorkerConfig) else ChildProcessWorkerConfig()
        self._loop = asyncio.get_running_loop()
        self._children: set[C] = set()
        """Those that take jobs, and those that still run some and have a successor."""
        self._keepers: list[asyncio.Task[None]] = []
        self._endings: set[asyncio.Task[None]] = set()
        self._failed = False
        self._closing = False
        self._surplus = 0
        """How many keepers are to end, since there are to be fewer children."""

    @property
    @abstractmethod
    def number_of_children(self) -> int:
        """How many it has."""

    @abstractmethod
    async def _start_child(self) -> C:
        """A child that is ready. Raises `OSError`, `MemoryError` or `WorkerError`."""

    @abstractmethod
    def _take_back(self, child: C) -> None:
        """Put in line what a child was given and hasn't begun."""

    @abstractmethod
    def _hand_in(self, child: C) -> None:
        """Hand in what has become of the jobs of a child that is dead."""

    @property
    def slots(self) -> int:
        return self.max_workers if self._children else 0

    async def open(self) -> None:
        if os.name != "posix":
            raise WorkerError(f"{self.worker_name} needs a POSIX system: use ThreadPoolWorker here")
        if not sys.executable:
            raise WorkerError(f"{self.worker_name} needs sys.executable, and this program has none")
        if is_patched():
            raise WorkerError(
                f"{self.worker_name} can't start processes where gevent has patched the program: "
                "run it by `omniq worker`, or in a program without monkey.patch_all()"
            )
        self._keepers = [self._spawn(self._keep_child()) for _ in range(self.number_of_children)]

    async def stacks(self) -> dict[str, Stack]:
        found: dict[str, Stack] = {}
        for stacks in await asyncio.gather(*(child.stacks() for child in list(self._children))):
            found |= stacks
        return found

    async def close(self) -> None:
        self._closing = True
        if self._loop.is_closed():  # nothing of it can end by itself any more
            for child in self._children:
                child.abandon()
            return
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        for child in self._children:
            child.leave()
        if self._endings:
            await asyncio.wait(list(self._endings))

    def resize(self, max_workers: int) -> None:
        """As `Runner.resize`; children that are too many leave after what they run."""
        before = self.number_of_children
        super().resize(max_workers)
        change = self.number_of_children - before
        self._keepers += [self._spawn(self._keep_child()) for _ in range(change)]
        self._surplus += max(0, -change)
        taking = sorted((child for child in self._children if child.takes_jobs), key=lambda child: not child.is_idle)
        for child in taking[: max(0, -change)]:
            child.spent.set()
            child.leave_if_done()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._endings.discard(task)
        if task.cancelled() or (error := task.exception()) is None or self._failed:
            return
        self._failed = True  # one of them is enough
        self.on_failure(error if isinstance(error, Exception) else WorkerError(repr(error)))

    async def _keep_child(self) -> None:
        """Have a child at any time: a new one whenever one takes no more jobs, and as soon as one can be started."""
        while not self._is_one_too_many():
            child = await self._new_child()
            self._children.add(child)
            self._endings.add(self._spawn(self._see_off(child)))
            self.line.changed.set()  # there may be room now
            self.wake()
            await child.spent.wait()

    def _is_one_too_many(self) -> bool:
        """Whether this keeper is to end."""
        if self._surplus == 0:
            return False
        self._surplus -= 1
        return True

    async def _new_child(self) -> C:
        """A child that is ready. Raises `WorkerError` when there is none after many attempts."""
        backoff, failures = Backoff(FIRST_PAUSE, MAX_PAUSE), 0
        while True:
            try:
                return await self._start_child()
            except (OSError, MemoryError, WorkerError) as error:
                failures += 1
                if failures >= FAILED_STARTS and not self._children:
                    raise WorkerError(f"no child process can be started: {error}") from error
                log.error("no child process can be started, trying again in %.1f s: %s", backoff.next, error)
            await backoff.pause()

    async def _see_off(self, child: C) -> None:
        """Once it leaves, hand on what the child was given. Its end tells what has become of its jobs."""
        await child.left.wait()
        self._children.discard(child)
        self._take_back(child)
        self.wake()
        await child.end()
        self._hand_in(child)
        self.wake()


class ProcessRunner(ChildRunner["Child"]):
    """Each task has a process to itself while it runs; a process that dies takes only its running task along."""

    isolates = True
    cancels = False
    worker_name = "ProcessPoolWorker"

    def __init__(
        self, line: Line, execution: Execution, *, max_workers: int, config: WorkerConfig | None = None
    ) -> None:
        super().__init__(line, execution, max_workers=max_workers, config=config)
        self._seconds: dict[str, float] = {}
        """By function: how long its tasks take, as a moving average."""
        self._watching = False

    @property
    def number_of_children(self) -> int:
        return self.max_workers

    def wake(self) -> None:
        served = []
        for child in self._free():
            if not self._give(child):
                break
            self._begin(child)
            served.append(child)
        for child in served:
            self._top_up(child)

    def _free(self) -> list[Child]:
        """The children that may begin a job now: a successor waits until the one before it has run its last."""
        free = [child for child in self._children if not child.jobs and child.takes_jobs]
        if len(self._children) > self.max_workers:
            del free[max(0, self.max_workers - sum(bool(child.jobs) for child in self._children)) :]
        return free

    def stop_job(self, job: Job, why: RunStatus) -> None:
        """Kill the process that runs the job; one that waits behind another job is taken back."""
        if job.ended_by is not None:
            return
        job.ended_by = why
        child = next((child for child in self._children if job in child.jobs), None)
        if child is not None:
            self._take_back(child)
            if child.jobs and child.jobs[0] is job:  # else it has begun just now: it is killed when that is known
                child.kill(job)
            self.wake()

    def end_silent(self, job: Job) -> None:
        child = next((child for child in self._children if child.jobs and child.jobs[0] is job), None)
        if child is not None and job.ended_by is None:
            job.silent = True
            child.kill(job)

    def take_back(self) -> None:
        for child in self._children:
            self._take_back(child)

    # ── children ─────────────────────────────────────────────────────────────

    async def _start_child(self) -> Child:
        from omniq.workers.children import Child

        return await Child.start(self.execution, self._told, self.config)

    def _take_back(self, child: Child) -> None:
        self.line.put_back(child.take_back())
        child.leave_if_done()

    def _hand_in(self, child: Child) -> None:
        if child.jobs and child.killed_for in (None, child.jobs[0]):
            job = child.jobs.popleft()
            self.line.done(job, self._what_killed(child, job))
        self.line.put_back(child.jobs)

    def _what_killed(self, child: Child, job: Job) -> RunResult:
        if job.ended_by is not None:
            return RunResult(end=job.ended_by, started_at=job.started_at)
        if child.killed_for is job:
            return failure(job, job.overdue)
        if self._closing:
            return RunResult(end=RunStatus.RELEASED)
        log.error("task %s: its process died (exit code %s)", job.record.id, child.process.returncode)
        return RunResult(end=RunStatus.CRASHED)

    # ── jobs ─────────────────────────────────────────────────────────────────

    def _give(self, child: Child, at_most: float = math.inf) -> bool:
        """Give a child what is next, but no task that is expected to take longer; returns whether there was any."""
        jobs = self._chunk(at_most, min(child.quota, MAX_CHUNK))
        if jobs:
            child.give(jobs)
            if len(child.jobs) > 1:
                self._watch()
        return bool(jobs)

    def _top_up(self, child: Child) -> None:
        """Give more to a child that has just begun a short task, if it has few others."""
        if len(child.jobs) in FEW and child.takes_jobs and self._guess(child.jobs[0]) <= SHORT:
            self._give(child, SHORT)

    def _chunk(self, at_most: float, size: float) -> list[Job]:
        """One job, or some of functions that are known to be short; none is behind others whose TTL ends soon."""
        jobs: list[Job] = []
        left, is_next = CHUNK_SECONDS, at_most == math.inf
        while left > 0 and len(jobs) < size and (job := self.line.take()) is not None:
            if (guess := self._guess(job)) > at_most or not (is_next or job.may_start_in(SOON)):
                self.line.put_back([job])
                break
            jobs.append(job)
            is_next = False
            if job.quarantined or job.call.timeout is not None or job.size >= LARGE:
                break
            left -= guess
        return jobs

    def _guess(self, job: Job) -> float:
        """How many seconds it will take; no task of a new function is taken for a short one."""
        return self._seconds.get(job.call.func, math.inf)

    def _begin(self, child: Child) -> None:
        """The child's first job has begun, as far as can be told from here."""
        job = child.jobs[0]
        child.began = time.monotonic()
        job.started_at = clock.now()
        job.on_report = self.execution.on_report
        if self.on_start is not None:
            self.on_start(job)
        if job.ended_by is not None:
            child.kill(job)
        elif job.call.timeout is not None:
            child.timer = self._loop.call_later(job.call.timeout, child.kill, job)

    def _told(self, child: Child, message: Message) -> None:
        if isinstance(message, SignOfLife):
            child.jobs[0].report(message.progress)
        else:
            self._reported(child, message)

    def _reported(self, child: Child, report: Report) -> None:
        job = child.jobs.popleft()
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
        self._learn(job.call.func, time.monotonic() - child.began)
        self.line.done(job, report.ran)
        if report.leaving:
            child.leave()
        elif child.jobs:
            self._begin(child)
            self._top_up(child)
        else:
            child.leave_if_done()
            self.wake()

    def _learn(self, func: str, seconds: float) -> None:
        known = self._seconds.get(func, seconds)
        self._seconds[func] = known + 0.2 * (seconds - known)

    # ── jobs that wait behind one that takes long ────────────────────────────

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.call_later(LATE / 2, self._look)

    def _look(self) -> None:
        """Let others have what waits behind a job that takes longer than was expected."""
        self._watching = False
        waited_for = [child for child in self._children if len(child.jobs) > 1]
        late = [child for child in waited_for if time.monotonic() - child.began > LATE]
        for child in late:
            self._take_back(child)
        if late:
            self.wake()
        if len(late) < len(waited_for):
            self._watch()


class ProcessPoolWorker(Worker):
    """Runs tasks in `max_workers` processes: for code that computes, that may crash, or that must be stoppable."""

    kind = "process"
    default_max_workers = os.cpu_count() or 1
    runner = ProcessRunner
    config_class = ChildProcessWorkerConfig
