"""The suite itself: it hides no test, it notices broken stores, and it is gated by capabilities."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, TypeAlias

import pytest
from msgspec.structs import replace

from omniq import clock as wall
from omniq.errors import UnsupportedCapability
from omniq.models.state import TaskState
from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, BaseTaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    Lease,
    LeaseStatus,
    NewTask,
    ResultRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
)
from omniq.testing import ReferenceQueueStore, ReferenceResultStore, ReferenceSpace, VirtualClock, conformance
from omniq.testing.conformance import (
    AtomicResultsConformance,
    ResultStorageConformance,
    ScheduleConformance,
    StatefulConformance,
    TaskQueueConformance,
)

Suite: TypeAlias = type[conformance.base.Conformance]


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
        return await super().extend([Lease(r.id, r.epoch) for r in records if r is not None], lease=lease)


class RefusesRepeats(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        return [replace_repeat(answer) for answer in answers]


def replace_repeat(answer: Changed) -> Changed:
    repeated = answer.status is ChangeStatus.REPEATED
    return Changed(ChangeStatus.REFUSED, answer.has_children) if repeated else answer


class ReadsThenWrites(ReferenceQueueStore):
    """Its writes overwrite what has happened since its reads."""

    async def _overwrite(self, rows: list[TaskRecord]) -> list[TaskRecord]:
        await asyncio.sleep(0)
        with self.space.lock:
            return [self.space.tasks.write(row) for row in rows]

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        ready = (await self.find(TaskFilter(states=(TaskState.PENDING,)), limit=limit)).tasks
        return await self._overwrite([rules.claimed(row, wall.now(), lease=lease, worker=worker) for row in ready])

    async def reap(self, limit: int) -> list[TaskRecord]:
        held = (await self.find(TaskFilter(states=(TaskState.RUNNING,)))).tasks
        lapsed = [row for row in held if row.lease_until is not None and row.lease_until <= wall.now()]
        return await self._overwrite([rules.reaped(row) for row in lapsed[:limit]])

    async def fire(self, schedule_id: str, *, if_version: int, next_run: float | None, task: NewTask) -> bool:
        (schedule,) = await self.schedules([schedule_id])
        await asyncio.sleep(0)
        await self.add([task])
        return await self.put_schedule(replace(schedule, next_run=next_run), if_version=schedule.version)


class TakesParentsInAnyOrder(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        answers = dict(zip(tasks, await super().add(sorted(tasks, key=lambda t: len(t.depends_on))), strict=True))
        return [answers[task] for task in tasks]


class CountsTtlFromNow(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await super().add([replace(t, ttl=None if t.ttl is None else t.ttl - t.delay) for t in tasks])


class ForgetsPauses(ReferenceQueueStore):
    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await super().pause(queue_name, paused=False)


class PagesByNumber(ReferenceQueueStore):
    async def find(self, where: TaskFilter, *, limit: int = 100, cursor: str | None = None) -> TaskPage:
        start = int(cursor or 0)
        found = (await super().find(where, limit=start + limit)).tasks[start:]
        return TaskPage(found, str(start + limit) if len(found) == limit else None)


class PurgesAwaitedParents(ReferenceQueueStore):
    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        waiting = (await self.find(TaskFilter(states=(TaskState.WAITING,)))).tasks
        with self.space.lock:
            for row in waiting:
                self.space.tasks.write(replace(row, state=TaskState.PENDING))
        return await super().purge(older_than=older_than, limit=limit)


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
        self.space.results.__init__()  # type: ignore[misc]
        return await super().put(records)


class KeepsResultsForEver(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await super().put([replace(record, ttl=None) for record in records])


BROKEN_QUEUES = [
    (IgnoresTheEpoch, "test_a_late_worker_cannot_unfinish"),
    (IgnoresTheEpoch, "test_of_two_epochs_the_older_never_wins"),
    (ExtendsForeignLeases, "test_a_lease_is_lost_to_the_next_claim"),
    (RefusesRepeats, "test_a_repeated_finish_is_told_from_a_late_one"),
    (ReadsThenWrites, "test_concurrent_claims_share_the_tasks"),
    (ReadsThenWrites, "test_a_lapse_is_charged_once"),
    (ReadsThenWrites, "test_cancel_and_claim_exclude_each_other"),
    (TakesParentsInAnyOrder, "test_a_parent_may_not_come_later_in_the_call"),
    (ForgetsPauses, "test_a_paused_queue_is_passed_over"),
    (PagesByNumber, "test_tasks_added_meanwhile_move_no_others"),
    (PurgesAwaitedParents, "test_a_waiting_childs_parent_is_kept"),
]
