"""The suite for a queue and a store of results at one location: `ATOMIC_RESULTS`."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import pytest

from omniq.errors import UnsupportedCapability
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import BaseResultStorage, Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import Change, ChangeStatus
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import OVERRIDE, Conformance, needs
from omniq.testing.conformance.builders import (
    add,
    change,
    claim,
    exactly,
    finish,
    lapsed,
    new_task,
    now,
    read,
    reap,
    result_of,
    running,
    states,
    together,
    until_told,
    woken,
)

Stores: TypeAlias = tuple[BaseTaskQueue, BaseResultStorage]


class AtomicResultsConformance(Conformance):
    """A change's result is stored in the step that applies the change, or the store says that it can't."""

    @pytest.fixture
    def stores(self) -> Stores:
        """A connected, empty queue and a connected, empty store of results, at one location if both can."""
        pytest.fail(OVERRIDE)

    @pytest.fixture
    def atomic(self, stores: Stores) -> Stores:
        """The same, if the queue declares the capability."""
        needs(stores[0], Capability.ATOMIC_RESULTS)
        return stores

    async def test_a_result_is_stored_or_refused_but_never_dropped(self, stores: Stores) -> None:
        queue, results = stores
        (record,) = await running(queue)
        wanted = finish(record, result=result_of(record.id))
        if Capability.ATOMIC_RESULTS in queue.capabilities:
            assert await change(queue, wanted) == ["applied"]
            assert await results.get([record.id]) != [None]
        else:
            with pytest.raises(UnsupportedCapability):
                await queue.transition([wanted])
            assert await read(queue, record.id) == record

    async def test_both_are_at_one_location(self, atomic: Stores) -> None:
        queue, results = atomic
        assert queue.location == results.location

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_an_applied_changes_result_is_stored(self, atomic: Stores, status: TaskState) -> None:
        queue, results = atomic
        (record,) = await running(queue)
        result = result_of(record.id, record.epoch, status=status, body=b"\x00r", ttl=60, schedule_id="s")
        assert await change(queue, finish(record, status, result=result)) == ["applied"]
        (stored,) = await results.get([record.id])
        assert stored is not None
        assert (stored.status, stored.epoch, stored.body) == (status, record.epoch, b"\x00r")
        assert stored.finished_at == now()
        assert stored.expires_at is not None
        assert stored.expires_at - stored.finished_at == exactly(60)
        assert await results.find("s") == [stored]

    async def test_a_refused_changes_result_is_not_stored(self, atomic: Stores, clock: VirtualClock) -> None:
        queue, results = atomic
        (late,) = await lapsed(queue, clock)
        await reap(queue)
        wanted = finish(late, result=result_of(late.id))
        assert await change(queue, wanted) == ["refused"]
        await claim(queue)
        assert await change(queue, wanted) == ["refused"]
        assert await results.get([late.id]) == [None]

    async def test_a_missing_tasks_result_is_not_stored(self, atomic: Stores) -> None:
        queue, results = atomic
        missing = Change(
            task_id="t", to=TaskState.SUCCESS, from_states=(TaskState.RUNNING,), epoch=1, result=result_of("t")
        )
        assert await change(queue, missing) == ["missing"]
        assert await results.get(["t"]) == [None]

    async def test_a_repeat_stores_nothing(self, atomic: Stores) -> None:
        queue, results = atomic
        (record,) = await running(queue)
        first = finish(record, result=result_of(record.id, body=b"first"))
        second = finish(record, result=result_of(record.id, body=b"second"))
        assert await change(queue, first, second) == ["applied", "repeated"]
        assert await change(queue, second) == ["repeated"]
        assert [r and r.body for r in await results.get([record.id])] == [b"first"]

    async def test_each_change_of_a_batch_has_its_own_result(self, atomic: Stores) -> None:
        queue, results = atomic
        records = await running(queue, 4)
        await change(queue, finish(records[2], TaskState.ERROR))
        changes = [finish(record, result=result_of(record.id, body=record.id.encode())) for record in records[:3]]
        assert await change(queue, *changes, finish(records[3])) == ["applied", "applied", "refused", "applied"]
        found = [r and r.body for r in await results.get([record.id for record in records])]
        assert found == [records[0].id.encode(), records[1].id.encode(), None, None]

    async def test_of_concurrent_ends_the_applied_ones_result_is_stored(self, atomic: Stores) -> None:
        queue, results = atomic
        for record in await running(queue, 5):
            ends = sorted(TERMINAL) * 3
            changes = [finish(record, to, result=result_of(record.id, status=to)) for to in ends]
            answers = await together(change(queue, wanted) for wanted in changes)
            (winner,) = [to for to, answer in zip(ends, answers, strict=True) if answer == [ChangeStatus.APPLIED]]
            (stored,) = await results.get([record.id])
            assert stored is not None
            assert [stored.status] == await states(queue, [record.id]) == [winner]

    async def test_a_task_that_nobody_held_leaves_a_result_too(self, atomic: Stores) -> None:
        queue, results = atomic
        await add(queue, new_task("t"))
        result = result_of("t", 0, status=TaskState.CANCELLED)
        wanted = Change(task_id="t", to=TaskState.CANCELLED, from_states=(TaskState.PENDING,), result=result)
        assert await change(queue, wanted) == ["applied"]
        assert [r and r.status for r in await results.get(["t"])] == [TaskState.CANCELLED]

    async def test_whoever_waits_for_the_result_is_told(self, atomic: Stores) -> None:
        queue, results = atomic
        (record,) = await running(queue)
        async with woken(partial(until_told, results, [record.id])):
            await change(queue, finish(record, result=result_of(record.id)))
