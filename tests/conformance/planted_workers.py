"""Workers that are broken in one place each, and which requirement says so. Each is a few lines over an honest one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from msgspec.structs import replace
from omniq.errors import WorkerError
from omniq.serialization.codec import LoadedCall
from omniq.testing.conformance import WorkerConformance
from omniq.workers.async_ import AsyncWorker, LoopRunner
from omniq.workers.base import Worker
from omniq.workers.children import Child
from omniq.workers.jobs import Job, Line, RunResult, RunStatus
from omniq.workers.process import ProcessPoolWorker, ProcessRunner


class LosesResults(LoopRunner):
    def _ended(self, job: Job, ran: RunResult) -> None:
        value_format, value = self.execution._serialization.dump_value(None)
        super()._ended(job, replace(ran, value=value, value_format=value_format) if ran.value else ran)


class RunsTwice(LoopRunner):
    async def open(self) -> None:
        await super().open()
        load = self.execution.load

        def load_twice(job: Job) -> LoadedCall | RunResult:
            call = load(job)
            return call if isinstance(call, RunResult) else LoadedCall(twice(call.func), call.args, call.kwargs)

        self.execution.load = load_twice  # type: ignore[method-assign]


def twice(func: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        func(*args, **kwargs)
        return func(*args, **kwargs)

    return call


class LeaksContexts(LoopRunner):
    async def open(self) -> None:
        await super().open()
        self.execution.run_sync = self.execution._run_sync  # type: ignore[method-assign]


class ForgetsToAwait(LoopRunner):
    async def open(self) -> None:
        await super().open()
        run = self.execution.run_sync
        self.execution.run_sync = lambda job, call, await_: run(job, call, close)  # type: ignore[method-assign]


def close(coroutine: Any) -> None:
    coroutine.close()


class NeverTimesOut(LoopRunner):
    async def open(self) -> None:
        await super().open()
        self._slots._time_out = lambda job: None  # type: ignore[method-assign]


class WaitsForTheLate(LoopRunner):
    """It tells in the end that they were late, and has no slot for others until then."""

    async def open(self) -> None:
        await super().open()
        self._slots.give_up = lambda job, ran: None  # type: ignore[method-assign]


class ForgetsTheSilent(LoopRunner):
    def end_silent(self, job: Job) -> None:
        pass


class ChargesReleased(LoopRunner):
    def stop_job(self, job: Job, why: RunStatus) -> None:
        super().stop_job(job, RunStatus.CRASHED if why is RunStatus.RELEASED else why)


class KeepsWhatItClaimed(LoopRunner):
    async def open(self) -> None:
        await super().open()
        self.line.withdraw = lambda keep=0: []  # type: ignore[method-assign]


class DiesOfExits(LoopRunner):
    def _ended(self, job: Job, ran: RunResult) -> None:
        super()._ended(job, ran)
        if ran.error_type == "SystemExit":
            self.on_failure(WorkerError("a task exits"))


class TellsNoHistory(LoopRunner):
    def _ended(self, job: Job, ran: RunResult) -> None:
        super()._ended(job, replace(ran, traceback=None))


class RetriesWhatIsRejected(LoopRunner):
    def _ended(self, job: Job, ran: RunResult) -> None:
        super()._ended(job, replace(ran, end=RunStatus.ERROR) if ran.end is RunStatus.FATAL else ran)


class ForgetsDelays(LoopRunner):
    def _ended(self, job: Job, ran: RunResult) -> None:
        super()._ended(job, replace(ran, delay=None))


class IgnoresCancellations(LoopRunner):
    def stop_job(self, job: Job, why: RunStatus) -> None:
        if why is not RunStatus.CANCELLED:
            super().stop_job(job, why)


class BeginsWhatWasCancelled(LoopRunner):
    def stop_job(self, job: Job, why: RunStatus) -> None:
        if job.started_at is not None:
            super().stop_job(job, why)


class SwallowsProgress(LoopRunner):
    async def open(self) -> None:
        await super().open()
        self.execution.on_report = None


class RunsTooMany(LoopRunner):
    def __init__(self, line: Line, execution: Any, *, max_workers: int, config: Any = None) -> None:
        super().__init__(line, execution, max_workers=max_workers + 2, config=config)


class RunsBackwards(LoopRunner):
    async def open(self) -> None:
        await super().open()
        jobs = self.line._jobs
        self.line.take = lambda: jobs.pop() if jobs else None  # type: ignore[method-assign]


class BeginsWhatHasExpired(LoopRunner):
    async def open(self) -> None:
        await super().open()
        jobs = self.line._jobs
        self.line.take = lambda: jobs.popleft() if jobs else None  # type: ignore[method-assign]


class LetsLeasesLapse(LoopRunner):
    def _start(self, job: Job) -> None:
        job.renewed_at = math.inf
        super()._start(job)


class BlamesNeighbours(ProcessRunner):
    """A task that kills its process takes those beside it along."""

    def _what_killed(self, child: Child, job: Job) -> RunResult:
        for other in self._children:
            other.kill_group()
        return super()._what_killed(child, job)


class Planted(NamedTuple):
    """A broken runner, and the requirement that it doesn't fulfil."""

    runner: type[Any]
    requirement: str


PLANTED = (
    Planted(LosesResults, "worker.run.a_sync_function_runs"),
    Planted(RunsTwice, "worker.run.nothing_is_lost_or_run_twice"),
    Planted(LeaksContexts, "worker.run.context_variables_stay_with_their_task"),
    Planted(ForgetsToAwait, "worker.run.what_a_function_returns_is_awaited"),
    Planted(NeverTimesOut, "worker.timeout.a_task_that_sleeps_too_long_fails"),
    Planted(WaitsForTheLate, "worker.timeout.the_slot_of_a_late_task_is_free"),
    Planted(ForgetsTheSilent, "worker.timeout.a_task_that_falls_silent_fails"),
    Planted(ChargesReleased, "worker.stop.after_the_grace_period_running_tasks_go_back"),
    Planted(KeepsWhatItClaimed, "worker.stop.what_runs_is_finished_and_the_rest_goes_back"),
    Planted(DiesOfExits, "worker.error.what_a_task_raises_is_its_error"),
    Planted(TellsNoHistory, "worker.error.an_error_is_told_with_its_causes_notes_and_members"),
    Planted(RetriesWhatIsRejected, "worker.retry.a_rejected_task_is_not_tried_again"),
    Planted(ForgetsDelays, "worker.retry.a_task_may_say_when_it_wants_to_be_run_again"),
    Planted(IgnoresCancellations, "worker.cancel.an_async_one_ends_while_it_runs"),
    Planted(BeginsWhatWasCancelled, "worker.cancel.one_that_was_claimed_ahead_never_begins"),
    Planted(SwallowsProgress, "worker.progress.progress_is_seen_while_the_task_runs"),
    Planted(RunsTooMany, "worker.slot.no_more_tasks_run_than_there_are_slots"),
    Planted(RunsBackwards, "worker.slot.what_was_claimed_ahead_runs_in_order"),
    Planted(BeginsWhatHasExpired, "worker.slot.what_has_expired_is_not_run"),
    Planted(LetsLeasesLapse, "worker.lease.a_task_that_blocks_keeps_its_lease"),
    Planted(BlamesNeighbours, "worker.death.only_the_task_that_killed_its_process_is_charged"),
)


def suite_of(broken: type[Any]) -> type[WorkerConformance]:
    """The suite on a worker with that runner."""
    base = ProcessPoolWorker if issubclass(broken, ProcessRunner) else AsyncWorker
    worker: type[Worker] = type(f"{broken.__name__}Worker", (base,), {"runner": broken})

    class TestIt(WorkerConformance):
        worker_type: ClassVar[Any] = worker
        longest = 3.0

    return TestIt


for _each in PLANTED:
    globals()[f"Test{_each.runner.__name__}"] = suite_of(_each.runner)
