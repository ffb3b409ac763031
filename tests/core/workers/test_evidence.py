"""A lapsed lease is no death: stalls of a store, lost replies and clocks of other hosts charge nobody."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from omniq.errors import StoreUnavailable
from omniq.models import TaskState
from omniq.models.config import WorkerConfig
from omniq.storage.records import (
    Firing,
    Lease,
    LeaseStatus,
    NewTask,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.testing import ReferenceQueueStore, ReferenceSpace, VirtualClock
from omniq.workers.leases import Reaper

from tests.core import tasks
from tests.core.support import KINDS, SOON, front_door, lines, reference_place, results_of, until, working

HOUR = 3600.0


class ForgetsToAnswer(ReferenceQueueStore):
    """Its next claims take effect, and their answers are lost."""

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.lost = 0

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        claimed = await super().claim(queues, limit=limit, lease=lease, worker=worker)
        if claimed and self.lost < 10:
            self.lost += 1
            raise StoreUnavailable("the connection was cut")
        return claimed


class AnswersLate(ReferenceQueueStore):
    """Its first claim is answered when the lease has run out: so it seems to a process that was stopped meanwhile.

    Nor is that lease renewed, which would be as good a reason to begin.
    """

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.is_first = True

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        claimed = await super().claim(queues, limit=limit, lease=lease, worker=worker)
        while claimed and self.is_first and not await self.lapsed(limit=1):
            await asyncio.sleep(0.01)
        self.is_first = self.is_first and not claimed
        return claimed

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        if any(held.epoch == 1 for held in leases):
            raise StoreUnavailable("the server doesn't answer")
        return await super().extend(leases, lease=lease)


class Stalls(ReferenceQueueStore):
    """While it stalls, nothing is answered that keeps a task in hand."""

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        if not self.goes_on.is_set():
            raise StoreUnavailable("the server doesn't answer")
        return await super().extend(leases, lease=lease)


class HourAhead(ReferenceQueueStore):
    """Its clock is an hour ahead of this host's."""

    async def now(self) -> float:
        return await super().now() + HOUR

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        return await super().schedules(ids, within=None if within is None else within + HOUR)

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        return await super().fire([replace(firing, task=_an_hour_before(firing.task)) for firing in firings])


def _an_hour_before(task: NewTask) -> NewTask:
    return replace(task, run_at=None if task.run_at is None else task.run_at - HOUR)


async def test_what_a_claim_brought_without_an_answer_goes_back_uncharged(log: Path) -> None:
    place = reference_place(queue=ForgetsToAnswer)
    async with front_door(place) as oq:
        ids = [await oq.enqueue(tasks.append, [str(log), str(n)]) for n in range(20)]
        async with working(oq, "async", lease=HOUR, poll_interval=0.05):
            await results_of(oq, ids)
        assert sorted(map(int, lines(log))) == list(range(20))
        assert {(await oq.get_task(id_)).crashes for id_ in ids} == {0}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_claimed_longer_ago_than_the_lease_lasts_is_not_begun(kind: str, log: Path) -> None:
    async with front_door(reference_place(queue=AnswersLate)) as oq:
        task_id = await oq.enqueue(tasks.append, [str(log), "run"])
        async with working(oq, kind, lease=1.0, poll_interval=0.05):
            await results_of(oq, [task_id])
        assert lines(log) == ["run"]
        assert (await oq.get_task(task_id)).epoch == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_that_lives_is_not_charged_for_a_stalled_store(kind: str, log: Path, gate: Path) -> None:
    stores: list[Stalls] = []

    def queue(space: ReferenceSpace) -> Stalls:
        stores.append(Stalls(space))
        return stores[-1]

    async with front_door(reference_place(queue=queue)) as oq:
        task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
        async with working(oq, kind, lease=1.5, reap_interval=0.1):
            await until(lambda: len(lines(log)) == 1)
            for store in stores:
                store.goes_on.clear()
            (record,) = await stores[0].get([task_id])
            assert record is not None
            async with asyncio.timeout(SOON):
                while not await stores[0].lapsed(limit=1):
                    await asyncio.sleep(0.01)
            for store in stores:
                store.goes_on.set()
            gate.touch()
            await results_of(oq, [task_id])
        assert (await oq.get_task(task_id)).crashes == 0
        assert len(lines(log)) == 1


async def test_a_lease_is_taken_back_by_a_second_look_a_third_of_a_lease_later(virtual_clock: VirtualClock) -> None:
    async with front_door(reference_place()) as oq:
        task_id = await oq.enqueue(tasks.nothing)
        store = oq.task_queue.store
        await store.claim(["default"], limit=1, lease=30.0, worker="dead")
        virtual_clock.advance(60)
        reaper = Reaper(oq.task_queue, oq.task_queue.dependencies, WorkerConfig(lease=0.6), lambda: None)
        seen_at = time.monotonic()
        async with asyncio.timeout(SOON):
            while (await oq.get_task(task_id)).state is TaskState.RUNNING:
                await reaper.look()
                await asyncio.sleep(0.01)
        assert time.monotonic() - seen_at >= 0.2
        assert (await oq.get_task(task_id)).crashes == 1


async def test_a_lease_that_is_renewed_between_two_looks_is_kept(virtual_clock: VirtualClock) -> None:
    async with front_door(reference_place()) as oq:
        task_id = await oq.enqueue(tasks.nothing)
        store = oq.task_queue.store
        (record,) = await store.claim(["default"], limit=1, lease=30.0, worker="w")
        virtual_clock.advance(60)
        reaper = Reaper(oq.task_queue, oq.task_queue.dependencies, WorkerConfig(lease=0.003), lambda: None)
        await reaper.look()
        await store.extend([Lease(task_id, record.epoch, "w")], lease=1.0)
        virtual_clock.advance(2)
        await asyncio.sleep(0.002)
        await reaper.look()  # it has lapsed again, which is new
        assert (await oq.get_task(task_id)).state is TaskState.RUNNING


async def test_a_worker_says_that_it_lives_and_that_it_leaves() -> None:
    async with front_door(reference_place()) as oq:
        store = oq.task_queue.store
        async with working(oq, "thread", max_workers=3, lease=HOUR) as pool:  # it says so at once
            await until(lambda: bool(store.space.workers))  # type: ignore[attr-defined]
            (worker,) = await store.workers()
            assert (worker.name, worker.kind, worker.slots) == (pool.name, "thread", 3)
            assert worker.queues == oq.task_queue.queues
            assert worker.started_at <= worker.last_seen
        assert await store.workers() == []


async def test_schedules_follow_the_clock_of_the_store(log: Path) -> None:
    async with front_door(reference_place(queue=HourAhead)) as oq:
        await oq.schedule(tasks.append, [str(log), "x"], interval=0.05, schedule_id="s")
        schedule = await oq.get_schedule("s")
        assert schedule.next_run is not None
        assert schedule.next_run.timestamp() - await oq.task_queue.store.now() < 1.0
        async with working(oq, "async", poll_interval=0.05):
            await until(lambda: len(lines(log)) >= 3)


class Counted(ReferenceQueueStore):
    """Counts how often it was asked who lives, and what waits."""

    looks: Counter[str]

    async def workers(self) -> list[WorkerRecord]:
        self.looks["workers"] += 1
        return await super().workers()

    async def find(self, where: TaskFilter, **page: Any) -> TaskPage:
        self.looks["waiting"] += where.states == (TaskState.WAITING,)
        return await super().find(where, **page)


async def test_nobody_asks_who_lives_while_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: Counter[str] = Counter()
    monkeypatch.setattr(Counted, "looks", looks, raising=False)
    async with front_door(reference_place(queue=Counted)) as oq:
        async with working(oq, "async", lease=HOUR, reap_interval=0.05):
            await until(lambda: looks["waiting"] > 0)
            assert looks["workers"] == 0
        parent = await oq.enqueue(tasks.nothing, run_in=HOUR)
        await oq.enqueue(tasks.nothing, depends_on=[parent])
        async with working(oq, "async", lease=HOUR, reap_interval=0.05):
            await until(lambda: looks["workers"] > 0)
