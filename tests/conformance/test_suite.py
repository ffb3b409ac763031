"""The suite itself: it hides no test, it notices broken stores, and it is gated by capabilities."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, TypeAlias

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace
from omniq import clock as wall
from omniq.errors import UnsupportedCapability
from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    Firing,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewTask,
    ResultRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
)
from omniq.testing import ReferenceQueueStore, ReferenceResultStore, VirtualClock, conformance
from omniq.testing.conformance import (
    AtomicResultsConformance,
    ResultStorageConformance,
    ScheduleConformance,
    TaskQueueConformance,
    builders,
)
from omniq.testing.conformance.base import Conformance
from omniq.testing.conformance.stateful import Bench, machine_for
from omniq.testing.reference.space import ReferenceStore

Suite: TypeAlias = type[Conformance]


class Plain(ReferenceQueueStore):
    """A store that can do no more than it must."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        if any(change.result is not None for change in changes):
            raise UnsupportedCapability("transition: this store holds no results")
        return await super().transition(changes)


class TestAtomicResultsOfAPlainStore(AtomicResultsConformance):
    @pytest.fixture
    def stores(self) -> tuple[BaseTaskQueue, BaseResultStorage]:
        return Plain(), ReferenceResultStore()


# ── stores that are broken in one place each ─────────────────────────────────


class IgnoresTheEpoch(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([replace(change, epoch=None) for change in changes])


class ExtendsForeignLeases(ReferenceQueueStore):
    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        records = await self.get([held.task_id for held in leases])
        return await super().extend(
            [Lease(r.id, r.epoch, r.worker or "") for r in records if r is not None], lease=lease
        )


class RefusesRepeats(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        return [Changed(ChangeStatus.REFUSED) if a.status is ChangeStatus.REPEATED else a for a in answers]


class ReadsThenWrites(ReferenceQueueStore):
    """Its writes overwrite what has happened since its reads."""

    async def _overwrite(self, rows: list[TaskRecord]) -> list[TaskRecord]:
        await asyncio.sleep(0)
        with self.space.lock:
            return [self.space.tasks.write(row) for row in rows]

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        ready = (await self.find(TaskFilter(states=(TaskState.PENDING,)), limit=limit, bodies=True)).tasks
        return await self._overwrite([rules.claimed(row, wall.now(), lease=lease, worker=worker) for row in ready])

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        found = await self.get([lease.task_id for lease in leases])
        lapsed = [
            row
            for row, seen in zip(found, leases, strict=True)
            if row is not None and rules.is_unrenewed(row, seen, wall.now())
        ]
        return await self._overwrite([rules.reaped(row, None) for row in lapsed])

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        return [await self._fire_late(firing) for firing in firings]

    async def _fire_late(self, firing: Firing) -> bool:
        if [schedule.version for schedule in await self.schedules([firing.schedule_id])] != [firing.if_version]:
            return False
        await asyncio.sleep(0)
        (schedule,) = await self.schedules([firing.schedule_id])
        await self.add([firing.task])
        return await self.put_schedule(replace(schedule, next_run=firing.next_run), if_version=schedule.version)


class TakesParentsInAnyOrder(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        answers = dict(zip(tasks, await super().add(sorted(tasks, key=lambda t: len(t.depends_on))), strict=True))
        return [answers[task] for task in tasks]


class ForgetsPauses(ReferenceQueueStore):
    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await super().pause(queue_name, paused=False)


class PagesByNumber(ReferenceQueueStore):
    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        start = int(cursor or 0)
        found = (await super().find(where, newest_first=newest_first, limit=start + limit, bodies=bodies)).tasks[start:]
        return TaskPage(found, str(start + limit) if len(found) == limit else None)


class PurgesByBirth(ReferenceQueueStore):
    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        ended = (await self.find(TaskFilter(states=tuple(TERMINAL)), bodies=True)).tasks
        with self.space.lock:
            for row in ended:
                self.space.tasks.write(replace(row, finished_at=row.created_at))
        return await super().purge(older_than=older_than, limit=limit)


class ForgetsParents(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await super().add([replace(task, depends_on=()) for task in tasks])


class SleepsThrough(ReferenceQueueStore):
    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await asyncio.sleep(timeout)


class StoresResultsFirst(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        await ReferenceResultStore(self.space).put([c.result for c in changes if c.result is not None])
        return await super().transition([replace(change, result=None) for change in changes])


class DropsResults(Plain):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([replace(change, result=None) for change in changes])


class KeepsTheLastResult(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return [self.space.results.put(replace(record, epoch=99), wall.now()) for record in records]


class KeepsResultsForEver(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await super().put([replace(record, ttl=None) for record in records])


BROKEN: list[tuple[Suite, type[ReferenceStore], str]] = [
    (TaskQueueConformance, IgnoresTheEpoch, "test_a_late_worker_is_refused"),
    (TaskQueueConformance, IgnoresTheEpoch, "test_of_two_epochs_the_older_never_wins"),
    (TaskQueueConformance, ExtendsForeignLeases, "test_a_lease_is_lost_to_the_next_claim"),
    (TaskQueueConformance, RefusesRepeats, "test_a_repeated_finish_is_told_from_a_late_one"),
    (TaskQueueConformance, ReadsThenWrites, "test_concurrent_claims_share_the_tasks"),
    (TaskQueueConformance, ReadsThenWrites, "test_a_lapse_is_charged_once"),
    (TaskQueueConformance, ReadsThenWrites, "test_cancel_and_claim_exclude_each_other"),
    (ScheduleConformance, ReadsThenWrites, "test_of_concurrent_callers_one_fires"),
    (TaskQueueConformance, TakesParentsInAnyOrder, "test_a_parent_may_not_come_later_in_the_call"),
    (TaskQueueConformance, ForgetsParents, "test_a_waiting_childs_parent_is_kept"),
    (TaskQueueConformance, ForgetsPauses, "test_a_paused_queue_is_passed_over"),
    (TaskQueueConformance, PagesByNumber, "test_tasks_added_meanwhile_move_no_others"),
    (TaskQueueConformance, PurgesByBirth, "test_an_age_counts_from_the_end"),
    (TaskQueueConformance, SleepsThrough, "test_it_ends_when_a_task_is_added"),
    (AtomicResultsConformance, StoresResultsFirst, "test_a_refused_changes_result_is_not_stored"),
    (AtomicResultsConformance, DropsResults, "test_a_result_is_stored_or_refused_but_never_dropped"),
    (ResultStorageConformance, KeepsTheLastResult, "test_a_newer_claims_result_wins"),
    (ResultStorageConformance, KeepsResultsForEver, "test_an_expired_result_is_none"),
]


async def run(suite: Suite, store: ReferenceStore, name: str) -> None:
    """Run one test of the suite by hand, with the fixtures that it asks for."""
    test: Callable[..., Awaitable[None]] = getattr(suite(), name)
    results = ReferenceResultStore(store.space)
    with VirtualClock() as clock:
        both = (store, results)
        fixtures = {"store": store, "clock": clock, "stores": both, "atomic": both}
        await test(**{name: fixtures[name] for name in inspect.signature(test).parameters})


@pytest.mark.parametrize(("suite", "broken", "name"), BROKEN)
async def test_a_broken_store_is_noticed(
    suite: Suite, broken: type[ReferenceStore], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "PATIENCE", 0.5)
    honest = ReferenceQueueStore() if issubclass(broken, ReferenceQueueStore) else ReferenceResultStore()
    await run(suite, honest, name)
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError)):
        await run(suite, broken(), name)


@pytest.mark.parametrize(
    "broken", [IgnoresTheEpoch, ExtendsForeignLeases, RefusesRepeats, ReadsThenWrites, ForgetsParents, ForgetsPauses]
)
async def test_a_random_walk_notices_a_broken_store(broken: type[ReferenceQueueStore]) -> None:
    bounds = settings(max_examples=500, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    with VirtualClock() as clock:
        machine = machine_for(Bench(broken(), asyncio.get_running_loop(), clock))
        with pytest.raises(AssertionError):
            await asyncio.to_thread(run_state_machine_as_test, machine, settings=bounds)


@pytest.mark.parametrize("name", conformance.__all__)
def test_no_test_hides_another(name: str) -> None:
    classes = getattr(conformance, name).__mro__
    tests = Counter(test for class_ in classes for test in vars(class_) if test.startswith("test_"))
    assert tests
    assert {test for test, count in tests.items() if count > 1} == set()
