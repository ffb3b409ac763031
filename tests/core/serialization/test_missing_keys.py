"""Who lacks the key leaves what is signed to those who have it."""

from __future__ import annotations

import logging

import pytest
from omniq import clock
from omniq.config.loader import Security
from omniq.errors import (
    KeyMissing,
)
from omniq.models.task import TaskState
from omniq.testing import ReferenceSpace, VirtualClock

from tests.core import tasks
from tests.core.support import (
    SOON,
    Place,
    front_door,
    reference_place,
    results_of,
    until,
    until_states,
    working,
)

KEY, OLD = "k1:" + "s3cret" * 4, "k0:" + "an0ther" * 4

KEY, OLD = "k1:" + "s3cret" * 4, "k0:" + "an0ther" * 4
SIGNED = Security(signing_key=KEY)


@pytest.fixture
def space() -> ReferenceSpace:
    """A store whose rows a test can change, as an attacker would."""
    return ReferenceSpace()


@pytest.mark.parametrize(("kind", "keys"), [("async", None), ("thread", OLD), ("process", None)])
async def test_a_worker_without_the_key_leaves_tasks_to_one_that_has_it(
    place: Place, kind: str, keys: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    lacking = Security(signing_key=keys)
    async with front_door(place, security=SIGNED) as oq, front_door(place, security=lacking) as other:
        ids = [await oq.enqueue(tasks.add, [number, 1]) for number in range(10)]
        async with working(other, kind, max_workers=4):
            await until(lambda: told() != [])
            async with working(oq, "async"):
                assert await results_of(oq, ids) == [number + 1 for number in range(10)]
        (error,) = told()
        assert "key id 'k1'" in error
        records = [record for record in await oq.task_queue.store.get(ids) if record is not None]
        assert {(record.attempts, record.crashes) for record in records} == {(0, 0)}
        with pytest.raises(KeyMissing):
            await other.get_result(ids[0], timeout=SOON)


async def test_a_worker_without_the_key_asks_for_a_task_ever_less_often(
    space: ReferenceSpace, virtual_clock: VirtualClock
) -> None:
    place = reference_place(space)
    async with front_door(place, security=SIGNED) as oq:
        task_id = await oq.enqueue(tasks.add, [1, 2])
    async with front_door(place) as other:
        waits = []
        for epoch in range(1, 9):
            pool = other.worker_pool("async")
            async with pool:
                await until_epoch(space, task_id, epoch)
                await until_states(other, [task_id], TaskState.SCHEDULED)
            record = space.tasks.rows.get(task_id)
            assert record is not None
            waits.append(record.run_at - clock.now())
            virtual_clock.advance(31)
        assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30], abs=0.6)


async def until_epoch(space: ReferenceSpace, task_id: str, epoch: int) -> None:
    """Wait for so many claims."""

    def claimed() -> bool:
        record = space.tasks.rows.get(task_id)
        return record is not None and record.epoch >= epoch

    await until(claimed)


async def test_a_schedule_fires_once_somebody_has_its_key(place: Place, virtual_clock: VirtualClock) -> None:
    async with front_door(place, security=SIGNED) as oq, front_door(place) as other:
        await oq.schedule(tasks.add, [1, 2], interval=10)
        virtual_clock.advance(11)
        assert await other.task_queue.scheduler.fire_due() == 0
        assert await other.task_queue.scheduler.fire_due() == 0
        assert await oq.task_queue.scheduler.fire_due() == 1


async def test_a_child_whose_policy_cannot_be_read_waits_for_somebody_who_can(place: Place) -> None:
    async with front_door(place, security=SIGNED) as oq, front_door(place) as other:
        parent = await oq.enqueue(tasks.add, [1, 2])
        runs = await oq.enqueue(tasks.add, [1, 2], depends_on=parent, on_parent_failure="run")
        ends = await oq.enqueue(tasks.add, [1, 2], depends_on=parent)
        assert await other.cancel(parent)
        await other.task_queue.dependencies.sweep()
        assert [(await oq.get_task(id_)).state for id_ in (runs, ends)] == [TaskState.WAITING] * 2
        await oq.task_queue.dependencies.sweep()
        states = [(await oq.get_task(id_)).state for id_ in (runs, ends)]
        assert states == [TaskState.PENDING, TaskState.CANCELLED]
