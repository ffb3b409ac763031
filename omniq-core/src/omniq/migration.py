"""Moving everything that a store holds to another one: tasks, schedules, dead letters, results."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from msgspec.structs import replace

from omniq import clock
from omniq.batching import Backoff
from omniq.clock import Duration, seconds
from omniq.core import AsyncOmniQ, OmniQ
from omniq.errors import ConfigError, StoreError, WorkerError
from omniq.models.task import TaskState, new_id
from omniq.queue.moving import (
    PAGE,
    MigrationReport,
    Progress,
    ResultCopier,
    TaskMover,
    again,
    results_for,
)
from omniq.status import workers_of
from omniq.storage.base import BaseTaskQueue
from omniq.storage.records import ScheduleRecord, TaskFilter, WorkerRecord
from omniq.sync import Blocking, blocking, core_of
from omniq.texts import get_logger

log = get_logger("omniq.queue")

MOVED: Final = "omniq.moved"
"""A queue that holds nothing and is paused in a store from when a migration has begun to empty it: from then on the
pauses of its other queues are the migration's, and no longer what users want."""
LEASE: Final = 9.0
"""Seconds; by three times that often, the target is told that a migration goes on."""
FIRST_LOOK: Final = 0.05
MAX_LOOK: Final = 1.0


class AsyncMigration:
    """Moves everything from one store to another: tasks that wait to be run, with what they depend on, those that have
    ended, dead letters among them, and schedules, each with its state; and copies results.

    The source's queues are paused, and stay so. Whatever stops it, running it again goes on where it was: nothing is
    lost, and no task is at both places but for the moment in which it is moved. Workers may run on the target.
    """

    def __init__(self, source: AsyncOmniQ | OmniQ, target: AsyncOmniQ | OmniQ) -> None:
        """Raises `ConfigError` where both are one place, or two projects whose payloads are signed."""
        self._source = core_of(source, AsyncOmniQ, "source").task_queue
        self._target = core_of(target, AsyncOmniQ, "target").task_queue
        projects = {queue.config.project for queue in (self._source, self._target)}
        if len(projects) == 1 and self._source.store.location == self._target.store.location:
            raise ConfigError(f"target: {self._target.store.location} is the source, too")
        if len(projects) > 1 and self._source.security.signing_key is not None:
            raise ConfigError(f"target: what is signed for one project can't be moved to another: {sorted(projects)}")

    async def connect(self) -> None:
        """Connect to both places."""
        await self._source.connect()
        await self._target.connect()

    async def close(self) -> None:
        """Give back what `run` has opened on this loop."""
        await self._source.close()
        await self._target.close()

    async def run(
        self, *, dry_run: bool = False, wait: Duration | None = 0.0, on_progress: Progress | None = None
    ) -> MigrationReport:
        """Move what is there; returns what was moved, and what is left.

        With `dry_run`, nothing is changed. `wait` is for how long (seconds or `timedelta`; None: no limit) it waits for
        workers of the source to stop, and for the leases of those that died. `on_progress` is called with the report
        so far. Raises `WorkerError` while workers serve the source, or another migration moves tasks there,
        `ConfigError` where both are one place, or the target would refuse what is signed, and `StoreError`.
        """
        await self.connect()
        report = MigrationReport(dry_run=dry_run)
        results = ResultCopier(self._source, self._target, report)
        tasks = TaskMover(self._source, self._target, results, report, on_progress or (lambda _: None))
        if dry_run:
            await self._survey(report, results, tasks)
            return report
        limit = seconds("wait", wait)
        async with self._announced() as name:
            if name in await self._living():
                raise ConfigError(f"target: {self._target.store.location} is the source, too, by another name")
            await self._wait(limit)
            await self._finish_the_way_back()
            await self._fence(report)
            self._refuse(await self._living())
            while True:
                await self._take_back()
                await ScheduleMover(self._source.store, self._target.store, results).move_all(report)
                if await tasks.round() == 0:
                    return report

    @asynccontextmanager
    async def _announced(self) -> AsyncIterator[str]:
        """Be a worker of no queues at the target meanwhile: then nobody moves away what arrives there, and a source
        that has this worker, too, is the same place. Gives its name."""
        store = self._target.store
        worker = WorkerRecord(name=f"migration-{new_id()}", kind="migration", lease=LEASE, started_at=clock.now())
        await again(store.beat, worker)
        over = asyncio.Event()
        beating = asyncio.ensure_future(_keep_beating(store, worker, over))
        try:
            yield worker.name
        finally:
            over.set()  # not cancelled: a beat that goes on in a thread would come after the farewell
            await asyncio.wait([beating])
            with suppress(StoreError):  # it is forgotten soon, anyway; what is raised already says more
                await store.beat(worker, leaving=True)

    async def _finish_the_way_back(self) -> None:
        """Let nothing be at both places of what an earlier migration, from the target to the source, was moving when it
        was stopped: taken for known, it would be lost here, or run there once more."""
        source, target, report = self._source, self._target, MigrationReport()
        if MOVED in await _paused(target.store):
            results = ResultCopier(target, source, report)
            await ScheduleMover(target.store, source.store, results).move_all(report, only_begun=True)
            await TaskMover(target, source, results, report, lambda _: None).round(only_begun=True)

    async def _living(self) -> list[str]:
        """The workers that serve the source."""
        return [worker.name for worker in (await again(workers_of, self._source.store)).alive]

    def _refuse(self, workers: Sequence[str]) -> None:
        """Raise `WorkerError` if there are any."""
        if workers:
            names = ", ".join(workers[:3]) + (f" and {len(workers) - 3} more" if len(workers) > 3 else "")
            raise WorkerError(f"{self._source.store.location} is still served by {names}: stop its workers first")

    async def _wait(self, limit: float | None) -> None:
        """Wait until the source has no worker and nothing that runs. Raises `WorkerError` if it has workers then."""
        deadline, pauses = time.monotonic() + (math.inf if limit is None else limit), Backoff(FIRST_LOOK, MAX_LOOK)
        running = TaskFilter(states=(TaskState.RUNNING,))
        while True:
            living = await self._living()
            if not living:
                await self._take_back()
            held = living or (await again(self._source.store.find, running, limit=1)).tasks
            if not held or time.monotonic() >= deadline:
                return self._refuse(living)
            await pauses.pause()

    async def _take_back(self) -> None:
        """Put tasks back in line whose worker has died, and whose lease is over: no worker is there to do it."""
        store = self._source.store
        while lapsed := await again(store.lapsed, limit=min(PAGE, store.max_items)):
            if not await store.reap(lapsed):
                return

    async def _fence(self, report: MigrationReport) -> None:
        """Let nobody claim from the source any more, and let the target's queues be paused as the source's were."""
        source, target = self._source.store, self._target.store
        if MOVED in (emptied := await _paused(target)):  # it was a source before: those pauses were a migration's
            for queue in sorted(emptied, key=lambda name: name == MOVED):
                await target.pause(queue, paused=False)
        paused = await _paused(source)
        if MOVED not in paused:
            for queue in sorted(paused):
                await target.pause(queue, paused=True)
            report.paused = sorted(paused)
            await source.pause(MOVED, paused=True)
        for queue in {*self._source.queues, *(stats.name for stats in await source.stats())} - paused:
            await source.pause(queue, paused=True)

    async def _survey(self, report: MigrationReport, results: ResultCopier, tasks: TaskMover) -> None:
        """Count what would be moved."""
        report.workers = await self._living()
        report.schedules = len(await self._source.store.schedules())
        seen = set[str]()
        async for records in tasks.pages():
            movable = [record for record in records if tasks.obstacle(record) is None]
            report.count(movable)
            report.running += sum(record.state is TaskState.RUNNING for record in records)
            for record in records:
                if (reason := tasks.obstacle(record)) is not None and record.state is not TaskState.RUNNING:
                    report.leave("task", record.id, reason)
            report.results += len(await results.missing(sorted(results_for(movable) - seen)))
            seen |= results_for(movable)


async def _keep_beating(store: BaseTaskQueue, worker: WorkerRecord, over: asyncio.Event) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASE / 3):
                await over.wait()
                return
        try:
            await store.beat(worker)
        except StoreError as error:
            log.warning("migration: %s wasn't told that it goes on: %s", store.location, error)


async def _paused(store: BaseTaskQueue) -> set[str]:
    return {stats.name for stats in await store.stats() if stats.paused}


class Migration(Blocking[AsyncMigration]):
    """`AsyncMigration` with methods that block; `aio` is its async core."""

    def __init__(self, source: AsyncOmniQ | OmniQ, target: AsyncOmniQ | OmniQ) -> None:
        super().__init__(AsyncMigration(source, target))

    run = blocking(AsyncMigration.run)


# ── schedules ───────────────────────────────────────────────────────────────


class ScheduleMover:
    """Moves schedules so that no slot is fired at both places, whatever is killed in between.

    A copy without a next slot comes first, which remembers whether the schedule was paused; then the schedule is
    paused at the source, so that nobody fires it there; then the copy gets the slot; then the schedule is deleted.
    """

    def __init__(self, source: BaseTaskQueue, target: BaseTaskQueue, results: ResultCopier) -> None:
        self._source, self._target, self._results = source, target, results

    async def move_all(self, report: MigrationReport, *, only_begun: bool = False) -> None:
        """Move those that can be; or `only_begun` the ones that the target has, too."""
        there = {each.id for each in await again(self._target.schedules)} if only_begun else None
        for schedule in await again(self._source.schedules):
            if there is not None and schedule.id not in there:
                continue
            if schedule.damage is not None:
                report.leave("schedule", schedule.id, f"it is damaged: {schedule.damage}")
                continue
            await self._results.of_schedule(schedule.id)
            if await again(self._move, schedule.id):
                report.schedules += 1
            else:
                report.known += 1

    async def _move(self, schedule_id: str) -> bool:
        """Move it; returns whether it was this, or an earlier attempt, that the target has it from."""
        while found := await self._source.schedules([schedule_id]):
            (schedule,) = found
            there = await self._target.schedules([schedule_id])
            if not there:
                await self._target.put_schedule(_inert(schedule), if_version=None)
            elif not _is_inert(there[0], schedule):
                await self._source.delete_schedule(schedule_id)
                return False
            elif await self._hand_over(schedule, there[0]):
                return True
        return True

    async def _hand_over(self, schedule: ScheduleRecord, copy: ScheduleRecord) -> bool:
        """Let the target fire it from now on; False where somebody has changed it meanwhile."""
        if not schedule.paused:
            paused = replace(schedule, paused=True)
            if not await self._source.put_schedule(paused, if_version=schedule.version):
                return False
        if not await self._target.put_schedule(replace(schedule, paused=copy.paused), if_version=copy.version):
            return False
        await self._source.delete_schedule(schedule.id)
        return True


def _inert(schedule: ScheduleRecord) -> ScheduleRecord:
    """The same without a slot, at a version that no schedule of its id has had at the target."""
    return replace(schedule, next_run=None, version=max(schedule.version, int(1000 * clock.now())))


def _is_inert(copy: ScheduleRecord, schedule: ScheduleRecord) -> bool:
    """Whether the target has no more than a copy that waits for its slot."""
    last, fired = copy.last_run, schedule.last_run
    return copy.next_run is None and (last is None or (fired is not None and last <= fired))
