"""Stores go away and come back: the worker lives on, no task is run again for it, and late workers are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from omniq.errors import StoreError, StoreUnavailable, TaskFailed, ValueRefused
from omniq.models import TaskState
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewTask,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.testing import ReferenceQueueStore, ReferenceResultStore, ReferenceSpace
from omniq.workers import settling

from tests.core import tasks
from tests.core.support import (
    KINDS,
    SOON,
    Place,
    front_door,
    lines,
    reference_place,
    results_of,
    until,
    until_outlived,
    until_states,
    working,
)

pytestmark = pytest.mark.starvable

LEASE = 0.4


class Switch:
    """Tells stores whether they are away."""

    def __init__(self, error: type[StoreError] = StoreUnavailable) -> None:
        self.away = False
        self.refusals = 0
        self._error = error

    def check(self) -> None:
        if self.away:
            self.refusals += 1
            raise self._error("the store is away")


class FlakyQueueStore(ReferenceQueueStore):
    """A queue that a switch makes unavailable."""

    def __init__(self, place: ReferenceSpace, switch: Switch) -> None:
        super().__init__(place)
        self._switch = switch

    async def connect(self) -> None:
        self._switch.check()

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        self._switch.check()
        return await super().add(tasks)

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        self._switch.check()
        return await super().claim(queues, limit=limit, lease=lease, worker=worker)

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        self._switch.check()
        return await super().extend(leases, lease=lease)

    async def held(self, worker: str) -> list[Lease]:
        self._switch.check()
        return await super().held(worker)

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        self._switch.check()
        return await super().lapsed(limit=limit, after=after)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        self._switch.check()
        return await super().reap(leases)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        self._switch.check()
        return await super().beat(worker, leaving=leaving)

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        self._switch.check()
        return await super().transition(changes)

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        self._switch.check()
        return await super().get(ids, bodies=bodies)

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        self._switch.check()
        return await super().find(where, newest_first=newest_first, limit=limit, cursor=cursor, bodies=bodies)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        self._switch.check()
        return await super().children(ids)

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        self._switch.check()
        return await super().schedules(ids, within=within)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        self._switch.check()
        await super().wait(queues, timeout)


class FlakyResultStore(ReferenceResultStore):
    """Results that a switch makes unavailable."""

    def __init__(self, place: ReferenceSpace, switch: Switch) -> None:
        super().__init__(place)
        self._switch = switch

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        self._switch.check()
        return await super().put(records)

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        self._switch.check()
        return await super().get(ids)

    async def hear(self, timeout: float) -> None:
        self._switch.check()
        await super().hear(timeout)


def flaky_queue(space: ReferenceSpace, switch: Switch) -> Place:
    return reference_place(space, queue=lambda place: FlakyQueueStore(place, switch))


class TestOutages:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_that_ends_while_the_queue_is_away_is_settled_afterwards(
        self, log: Path, gate: Path, kind: str
    ) -> None:
        space, switch = ReferenceSpace(), Switch()
        async with front_door(flaky_queue(space, switch)) as oq, working(oq, kind, max_workers=1) as pool:
            task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
            await until(lambda: len(lines(log)) == 1)
            switch.away = True
            gate.touch()
            await until(lambda: any(job.done for job in pool.in_flight.held.values()))
            await until(lambda: switch.refusals > 3)
            switch.away = False
            assert await oq.get_result(task_id, timeout=SOON) == "done"
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert len(lines(log)) == 1
        assert (await oq.get_task(task_id)).epoch == 1

    async def test_an_idle_worker_finds_tasks_again_after_an_outage(self) -> None:
        space, switch = ReferenceSpace(), Switch()
        async with front_door(flaky_queue(space, switch)) as oq, working(oq, "async") as pool:
            switch.away = True
            await until(lambda: switch.refusals > 5)
            assert not pool.finished.is_set()
            switch.away = False
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3

    async def test_leases_are_renewed_again_after_an_outage(self, log: Path, gate: Path) -> None:
        space, switch = ReferenceSpace(), Switch()
        place = flaky_queue(space, switch)
        async with front_door(place) as oq, working(oq, "async", lease=LEASE):
            task_id = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
            await until(lambda: len(lines(log)) == 1)
            switch.away = True
            await until(lambda: switch.refusals > 5)
            switch.away = False
            await until_outlived(oq, task_id, LEASE)
            gate.touch()
            assert await oq.get_result(task_id, timeout=SOON) == "done"
        assert len(lines(log)) == 1

    async def test_a_caller_hears_of_an_outage_at_once(self) -> None:
        space, switch = ReferenceSpace(), Switch()
        async with front_door(flaky_queue(space, switch)) as oq:
            switch.away = True
            for call in (oq.enqueue(tasks.nothing), oq.cancel("t"), oq.list_tasks()):
                with pytest.raises(StoreUnavailable, match="away"):
                    await call
            switch.away = False
            assert await oq.enqueue(tasks.nothing, task_id="t") == "t"

    async def test_a_worker_does_not_start_without_its_store(self) -> None:
        switch = Switch()
        switch.away = True
        oq = front_door(flaky_queue(ReferenceSpace(), switch))
        with pytest.raises(StoreError, match="away"):
            await oq.start_worker("async")
        switch.away = False
        await oq.start_worker("async")
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        await oq.close()

    async def test_a_worker_stops_though_its_store_is_away(self, log: Path, gate: Path) -> None:
        space, switch = ReferenceSpace(), Switch()
        async with front_door(flaky_queue(space, switch)) as oq:
            task_id = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
            async with working(oq, "async", grace_period=0.1, lease=LEASE):
                await until(lambda: len(lines(log)) == 1)
                switch.away = True
            switch.away = False
            gate.touch()
            async with working(oq, "async", lease=LEASE):  # the lease has to run out first
                assert await oq.get_result(task_id, timeout=SOON) == "done"
        task = await oq.get_task(task_id)
        assert (task.attempts, task.crashes, task.epoch) == (0, 1, 2)


class TestResultOutages:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_is_not_run_again_because_its_result_cannot_be_written(self, log: Path, kind: str) -> None:
        switch, elsewhere = Switch(), ReferenceSpace()
        place = reference_place(results=lambda _: FlakyResultStore(elsewhere, switch))
        async with front_door(place) as oq, working(oq, kind, lease=LEASE):
            switch.away = True
            task_id = await oq.enqueue(tasks.append, [str(log), "ran"])
            await until(lambda: switch.refusals > 2)
            await until_states(oq, [task_id], TaskState.RUNNING)
            await until_outlived(oq, task_id, LEASE)
            assert (await oq.get_task(task_id)).state is TaskState.RUNNING
            switch.away = False
            assert await oq.get_result(task_id, timeout=SOON) == "ran"
            await until_states(oq, [task_id], TaskState.SUCCESS)
        assert lines(log) == ["ran"]
        task = await oq.get_task(task_id)
        assert (task.epoch, task.crashes) == (1, 0)

    async def test_whoever_waits_goes_on_waiting_while_results_are_away(self, log: Path, gate: Path) -> None:
        switch, elsewhere = Switch(), ReferenceSpace()
        place = reference_place(results=lambda _: FlakyResultStore(elsewhere, switch))
        async with front_door(place) as oq, working(oq, "async"):
            task_id = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
            waiting = asyncio.create_task(oq.get_result(task_id, timeout=SOON))
            await until(lambda: len(lines(log)) == 1)
            switch.away = True
            gate.touch()
            await until(lambda: switch.refusals > 1)
            switch.away = False
            assert await waiting == "done"


class NarrowResultStore(ReferenceResultStore):
    """Results of which none may be large."""

    error: type[StoreError] = ValueRefused

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        if any(len(record.body) > 10_000 for record in records):
            raise self.error("too large")
        return await super().put(records)


class VagueResultStore(NarrowResultStore):
    """Doesn't say that it's the value."""

    error = StoreError


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_that_the_store_refuses_fails_its_own_task_only(log: Path, kind: str) -> None:
    elsewhere = ReferenceSpace()
    async with front_door(reference_place(results=lambda _: NarrowResultStore(elsewhere))) as oq:
        large = await oq.enqueue(tasks.echo_noted, [str(log), "x" * 20_000], max_retries=3)
        small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(5)]
        async with working(oq, kind):
            assert await results_of(oq, small) == [1, 2, 3, 4, 5]
            with pytest.raises(TaskFailed, match="can't be stored: too large"):
                await oq.get_result(large, timeout=SOON)
    assert len(lines(log)) == 1
    assert [task.id for task in await oq.list_dead()] == [large]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_success_survives_that_the_store_refuses_its_user_for_a_while(log: Path, kind: str) -> None:
    switch, elsewhere = Switch(StoreError), ReferenceSpace()
    place = reference_place(results=lambda _: FlakyResultStore(elsewhere, switch))
    async with front_door(place) as oq, working(oq, kind):
        switch.away = True
        ids = [await oq.enqueue(tasks.append, [str(log), "ran"]) for _ in range(3)]
        await until(lambda: switch.refusals > 5)
        switch.away = False
        assert await results_of(oq, ids) == ["ran"] * 3
    assert lines(log) == ["ran"] * 3
    assert await oq.list_dead() == []


async def test_an_outcome_that_is_refused_for_no_fault_of_its_value_is_kept_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settling, "REFUSALS", 2)
    elsewhere = ReferenceSpace()
    store = VagueResultStore(elsewhere)
    async with front_door(reference_place(results=lambda _: store)) as oq, working(oq, "async") as pool:
        large = await oq.enqueue(tasks.echo, ["x" * 20_000])
        await until(lambda: len(pool.in_flight.held) == 1 and all(job.done for job in pool.in_flight.held.values()))
        small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(5)]
        assert await results_of(oq, small) == [1, 2, 3, 4, 5]
        assert (await oq.get_task(large)).state is TaskState.RUNNING
        monkeypatch.setattr(VagueResultStore, "put", ReferenceResultStore.put)
        assert await oq.get_result(large, timeout=SOON) == "x" * 20_000
    assert (await oq.get_task(large)).attempts == 0
