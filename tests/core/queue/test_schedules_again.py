"""A schedule that is declared again, as each start of a program does, goes on as it was."""

from __future__ import annotations

import asyncio
import datetime as dt
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import StoreUnavailable, TaskNotFound
from omniq.models.task import slot_id
from omniq.storage.records import NEW, NewTask, ScheduleRecord
from omniq.testing import ReferenceQueueStore, VirtualClock

from tests.core import tasks
from tests.core.support import Place, front_door, reference_place


async def declare(oq: AsyncOmniQ, interval: float = 60, **options: Any) -> None:
    await oq.schedule(tasks.nothing, interval=interval, schedule_id="r", **options)


async def next_run(oq: AsyncOmniQ) -> float:
    at = (await oq.get_schedule("r")).next_run
    assert at is not None
    return at.timestamp()


async def test_declaring_it_again_and_again_does_not_keep_it_from_firing(
    oq: AsyncOmniQ, virtual_clock: VirtualClock
) -> None:
    fired = 0
    for _ in range(12):
        await declare(oq)
        virtual_clock.advance(20)
        fired += await oq.task_queue.scheduler.fire_due()
    assert fired == 4


async def test_the_same_timing_keeps_the_slot_and_takes_the_new_call(
    oq: AsyncOmniQ, virtual_clock: VirtualClock
) -> None:
    await declare(oq)
    slot = await next_run(oq)
    virtual_clock.advance(30)
    await oq.schedule(tasks.add, [1, 2], interval=60, schedule_id="r", queue_name="high", priority=5)
    assert await next_run(oq) == slot
    virtual_clock.advance(31)
    assert await oq.task_queue.scheduler.fire_due() == 1
    (task,) = await oq.list_tasks()
    assert (task.func, task.queue_name, task.priority) == ("tests.core.tasks:add", "high", 5)
    assert task.run_at.timestamp() == slot


async def test_a_rule_counts_on_from_where_it_began(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    fired = set[float]()
    for _ in range(30):  # as a program does that starts three times a day
        await oq.schedule(tasks.nothing, rrule="FREQ=DAILY;INTERVAL=2;COUNT=4", schedule_id="r", grace=None)
        virtual_clock.advance(86_400 / 3)
        await oq.task_queue.scheduler.fire_due()
        fired |= {task.run_at.timestamp() for task in await oq.list_tasks()}
    slots = sorted(fired)
    assert [later - slot for slot, later in pairwise(slots)] == [2 * 86_400] * (len(slots) - 1)
    assert len(slots) == 4
    assert (await oq.get_schedule("r")).state == "ended"


async def test_one_that_has_ended_is_no_error(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    end = dt.datetime.fromtimestamp(virtual_clock.now() + 90, dt.UTC)
    await declare(oq, end=end)
    virtual_clock.advance(100)
    assert await oq.task_queue.scheduler.fire_due() == 1
    await declare(oq, end=end)
    assert (await oq.get_schedule("r")).state == "ended"


class Forgetful(ReferenceQueueStore):
    """Loses its answer to the first schedule that it writes."""

    lost = False

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        written = await super().put_schedule(schedule, if_version=if_version)
        if not self.lost:
            self.lost = True
            raise StoreUnavailable("the answer was lost")
        return written


async def test_a_new_one_is_told_of_though_the_answer_was_lost() -> None:
    async with front_door(reference_place(queue=Forgetful), events=True) as oq:
        await declare(oq)
        await declare(oq)
        assert len(await oq.list_events(type="schedule_created")) == 1


async def test_another_timing_begins_anew(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    await declare(oq, 3600)
    virtual_clock.advance(30)
    await declare(oq, 60)
    assert await next_run(oq) == pytest.approx(virtual_clock.now() + 60, abs=1)


@pytest.mark.parametrize("interval", [60, 61])
async def test_a_pause_outlasts_a_declaration(oq: AsyncOmniQ, virtual_clock: VirtualClock, interval: float) -> None:
    await declare(oq)
    await oq.pause_schedule("r")
    virtual_clock.advance(30)
    await declare(oq, interval)
    assert (await oq.get_schedule("r")).paused
    virtual_clock.advance(600)
    assert await oq.task_queue.scheduler.fire_due() == 0
    await oq.resume_schedule("r")
    assert 0 < await next_run(oq) - virtual_clock.now() <= interval


async def test_one_that_cannot_be_read_is_replaced(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    await declare(oq)
    store = oq.task_queue.store
    (record,) = await store.schedules(["r"])
    assert await store.put_schedule(replace(record, body=b"damaged", paused=True), if_version=record.version)
    await declare(oq)
    schedule = await oq.get_schedule("r")
    assert (schedule.func, schedule.paused) == ("tests.core.tasks:nothing", True)
    await oq.resume_schedule("r")
    virtual_clock.advance(61)
    assert await oq.task_queue.scheduler.fire_due() == 1


async def test_declaring_firing_and_pausing_at_once_lose_nothing(place: Place, virtual_clock: VirtualClock) -> None:
    doors = [front_door(place) for _ in range(4)]
    await declare(doors[0])
    slots = set()
    for _ in range(5):
        slots.add(await next_run(doors[0]))
        virtual_clock.advance(60.5)
        calls = [declare(oq) for oq in doors] + [oq.task_queue.scheduler.fire_due() for oq in doors]
        await asyncio.gather(*calls, doors[0].pause_schedule("r"))
        await doors[1].task_queue.scheduler.fire_due()
        assert (await doors[2].get_schedule("r")).paused
        await doors[3].resume_schedule("r")
        await doors[3].task_queue.scheduler.fire_due()
    fired = [task.run_at.timestamp() for task in await doors[0].list_tasks()]
    assert len(set(fired)) == len(fired)
    assert set(fired) <= slots
    for oq in doors:
        await oq.close()


async def test_a_slot_whose_task_was_there_already_is_told(
    oq: AsyncOmniQ, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await declare(oq)
    squatted = await oq.task_queue.scheduler.next_task_id("r")
    assert squatted == slot_id("r", await next_run(oq))
    with pytest.raises(TaskNotFound):
        await oq.get_task(squatted)
    planted = NewTask(id=squatted, queue_name="low", body=b"somebody else's")
    assert await oq.task_queue.store.add([planted]) == [NEW]
    virtual_clock.advance(61)
    await oq.task_queue.scheduler.fire_due()
    assert f"task {squatted} was there already, and isn't the schedule's" in caplog.text
    caplog.clear()
    virtual_clock.advance(60)
    assert await oq.task_queue.scheduler.fire_due() == 1
    assert caplog.text == ""
