"""`lapsed`, `held`, `beat` and `workers`: what tells a dead worker from a store that stalled."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import WorkerRecord
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import StoreConformance
from omniq.testing.conformance.builders import (
    about,
    add,
    assert_same,
    change,
    claim,
    exactly,
    finish,
    lapsed,
    lease_of,
    new_tasks,
    read,
    reap,
    running,
    states,
)
from omniq.testing.conformance.leasing import held


class EvidenceTests(StoreConformance):
    """A lapsed lease says that nobody renewed it; that somebody died takes more."""

    async def test_a_worker_that_was_seen_since_is_not_charged(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        await store.beat(WorkerRecord(name="worker"))
        (back,) = await reap(store)
        assert_same(back, replace(rules.reaped(record, None), crashes=0, body=b""))

    async def test_a_worker_that_was_seen_before_is_charged(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await store.beat(WorkerRecord(name="worker"))
        await lapsed(store, clock)
        await store.beat(WorkerRecord(name="another"))
        assert [back.crashes for back in await reap(store)] == [1]

    async def test_lapsed_leases_are_told_and_left_as_they_are(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        (seen,) = await store.lapsed(limit=10)
        assert (seen.task_id, seen.epoch, seen.worker) == (record.id, record.epoch, record.worker)
        assert seen.lease_until == exactly(record.lease_until or 0.0)
        assert await read(store, record.id) == record

    async def test_lapsed_leases_come_in_pages(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, *new_tasks(5))
        for lease in (50, 10, 40, 20, 30):
            await claim(store, limit=1, lease=lease)
        await running(store, lease=1000)
        clock.advance(60)
        pages = [await store.lapsed(limit=2)]
        while pages[-1]:
            pages.append(await store.lapsed(limit=2, after=pages[-1][-1]))
        ends = [lease.lease_until for page in pages for lease in page]
        assert [len(page) for page in pages] == [2, 2, 1, 0]
        assert ends == sorted(ends)

    async def test_a_lease_that_was_renewed_since_it_was_seen_is_left_alone(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        (record,) = await lapsed(store, clock)
        seen = await store.lapsed(limit=10)
        assert await held(store, lease_of(record), lease=10)
        assert await store.reap(seen) == []
        clock.advance(20)  # it has run out again, which nobody has seen yet
        assert await store.reap(seen) == []
        assert await states(store, [record.id]) == [TaskState.RUNNING]

    async def test_a_lease_that_was_claimed_since_it_was_seen_is_left_alone(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await lapsed(store, clock)
        seen = await store.lapsed(limit=10)
        await store.reap(seen)
        await claim(store, lease=10)
        clock.advance(20)
        assert await store.reap(seen) == []

    async def test_a_worker_is_told_what_it_holds(self, store: BaseTaskQueue) -> None:
        await add(store, *new_tasks(4))
        mine = await claim(store, limit=3, worker="me")
        await claim(store, worker="another")
        await change(store, finish(mine[0]))
        wanted = {lease_of(record) for record in mine[1:]}
        assert set(await store.held("me")) == wanted
        assert await store.held("nobody") == []

    async def test_a_change_may_name_the_worker(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await change(store, replace(finish(record), worker="another")) == ["refused"]
        assert await change(store, replace(finish(record), worker=record.worker)) == ["applied"]
        assert await change(store, replace(finish(record), worker=record.worker)) == ["repeated"]
        assert await change(store, replace(finish(record), worker="another")) == ["refused"]


class WorkerTests(StoreConformance):
    """Workers say that they are alive, and what they do."""

    async def test_workers_are_listed_by_name_as_they_were_last_seen(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        worker = WorkerRecord(
            name="b", host="here", kind="async", queues=("high", "low"), slots=8, running=2, started_at=1.5
        )
        await store.beat(worker)
        await store.beat(WorkerRecord(name="a"))
        clock.advance(60)
        await store.beat(replace(worker, running=5))
        first, second = await store.workers()
        assert (first.name, first.last_seen) == ("a", about(clock.now() - 60))
        assert second == replace(worker, running=5, last_seen=second.last_seen)
        assert second.last_seen == about(clock.now())

    async def test_a_worker_that_leaves_is_gone(self, store: BaseTaskQueue) -> None:
        await store.beat(WorkerRecord(name="a"))
        await store.beat(WorkerRecord(name="a"), leaving=True)
        await store.beat(WorkerRecord(name="b"), leaving=True)
        assert await store.workers() == []

    async def test_purging_forgets_those_that_were_not_seen_for_long(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await store.beat(WorkerRecord(name="old"))
        clock.advance(60)
        await store.beat(WorkerRecord(name="new"))
        await store.purge(older_than=30)
        assert [worker.name for worker in await store.workers()] == ["new"]

    async def test_the_clock_is_the_stores(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        clock.advance(1000)
        assert await store.now() == about(clock.now())
        (record,) = await running(store)
        assert record.claimed_at == pytest.approx(await store.now(), abs=1.0)
