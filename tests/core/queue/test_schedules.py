"""Schedules: each slot is fired once, whoever looks and however late, and results come by schedule."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, ResultExpired, ResultTimeout, ScheduleNotFound, TaskFailed
from omniq.models import TaskState
from omniq.queue import Scheduler, TaskQueue
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.support import (
    KINDS,
    SOON,
    Place,
    front_door,
    lines,
    reference_place,
    task_queue,
    until,
    until_states,
    working,
)


async def fire(oq: AsyncOmniQ) -> int:
    """Fire what is due; returns how many tasks that added."""
    return await oq.task_queue.scheduler.fire_due()


class TestFiring:
    async def test_each_slot_is_fired_once_by_any_number_of_schedulers(
        self, place: Place, virtual_clock: VirtualClock
    ) -> None:
        doors = [front_door(place) for _ in range(4)]
        await doors[0].schedule(tasks.nothing, interval=60)
        for slot in range(1, 6):
            virtual_clock.advance(60.5)
            fired = await asyncio.gather(*(fire(oq) for oq in doors))
            assert sum(fired) == 1
            assert len(await doors[0].list_tasks()) == slot
        for oq in doors:
            await oq.close()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_workers_fire_and_run_each_slot_once(
        self, place: Place, log: Path, virtual_clock: VirtualClock, kind: str
    ) -> None:
        async with front_door(place) as oq, front_door(place) as other:
            schedule_id = await oq.schedule(tasks.append, [str(log), "ran"], interval=dt.timedelta(seconds=60))
            async with working(oq, kind), working(other, "async", queues=["high"]):
                for slot in range(1, 4):
                    virtual_clock.advance(60.5)
                    await until(lambda: len(lines(log)) == slot)  # noqa: B023 (awaited at once)
            assert await oq.get_result(schedule_id=schedule_id, kind="all") == ["ran"] * 3
            assert len(await oq.list_tasks()) == 3

    async def test_the_first_slot_comes_after_one_interval(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        await oq.schedule(tasks.nothing, interval=60)
        assert await fire(oq) == 0
        virtual_clock.advance(59)
        assert await fire(oq) == 0
        virtual_clock.advance(1)
        assert await fire(oq) == 1
        assert await fire(oq) == 0

    async def test_slots_follow_from_each_other_not_from_when_somebody_looks(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        first = (await oq.get_schedule(schedule_id)).next_run
        assert first is not None
        for lateness in (5, 55, 0.5, 30):
            due = (await oq.get_schedule(schedule_id)).next_run
            assert due is not None
            virtual_clock.advance(due.timestamp() - virtual_clock.now() + lateness)
            assert await fire(oq) == 1
        slots = sorted(task.run_at for task in await oq.list_tasks())
        assert [(slot - first).total_seconds() for slot in slots] == pytest.approx([0, 60, 120, 180], abs=0.001)

    async def test_slots_that_were_missed_are_made_up_for_by_the_latest(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        first = (await oq.get_schedule(schedule_id)).next_run
        assert first is not None
        virtual_clock.advance(60 * 10 + 30)
        assert [await fire(oq), await fire(oq)] == [1, 0]
        (task,) = await oq.list_tasks()
        assert (task.run_at - first).total_seconds() == pytest.approx(540, abs=0.001)
        after = (await oq.get_schedule(schedule_id)).next_run
        assert after is not None
        assert (after - first).total_seconds() == pytest.approx(600, abs=0.001)

    async def test_a_fired_task_is_as_the_schedule_says(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        schedule_id = await oq.schedule(
            tasks.describe,
            interval=60,
            queue_name="low",
            priority=5,
            ttl=30,
            timeout=60,
            max_retries=2,
            metadata={"who": "cron"},
            schedule_id="mine",
        )
        assert schedule_id == "mine"
        virtual_clock.advance(61)
        await fire(oq)
        (task,) = await oq.list_tasks()
        assert (task.queue_name, task.priority, task.schedule_id) == ("low", 5, "mine")
        assert task.expires_at == task.run_at + dt.timedelta(seconds=30)
        async with working(oq, "async"):
            found = await oq.get_result(schedule_id="mine", timeout=SOON)
        assert (found["schedule_id"], found["max_retries"], found["metadata"]) == ("mine", 2, {"who": "cron"})

    async def test_a_schedule_that_cannot_be_read_stops_no_other(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for id_ in ("a", "b"):
            await oq.schedule(tasks.nothing, interval=60, schedule_id=id_)
        (record,) = await oq.task_queue.store.schedules(["a"])
        await oq.task_queue.store.put_schedule(replace(record, body=b"damaged"), if_version=record.version)
        virtual_clock.advance(61)
        assert await fire(oq) == 1
        assert "schedule a can't be read and doesn't fire" in caplog.text
        assert [schedule.func for schedule in await oq.list_schedules()] == ["(unreadable)", "tests.core.tasks:nothing"]
        assert (await oq.get_schedule("a")).preview() == []
        await oq.delete_schedule("a")


class TestChanging:
    async def test_a_paused_schedule_does_not_fire_and_replays_nothing(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        await oq.pause_schedule(schedule_id)
        assert (await oq.get_schedule(schedule_id)).state == "paused"
        virtual_clock.advance(600)
        assert await fire(oq) == 0
        await oq.resume_schedule(schedule_id)
        schedule = await oq.get_schedule(schedule_id)
        assert schedule.state == "active"
        assert schedule.next_run is not None
        assert 0 < schedule.next_run.timestamp() - virtual_clock.now() <= 60
        assert await fire(oq) == 0
        virtual_clock.advance(60)
        assert await fire(oq) == 1

    async def test_a_short_pause_keeps_the_next_slot(self, oq: AsyncOmniQ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        before = (await oq.get_schedule(schedule_id)).next_run
        for _ in range(2):
            await oq.pause_schedule(schedule_id)
        for _ in range(2):
            await oq.resume_schedule(schedule_id)
        assert (await oq.get_schedule(schedule_id)).next_run == before

    async def test_a_deleted_schedule_is_gone_and_its_tasks_stay(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        schedule_id = await oq.schedule(tasks.add, [1, 2], interval=60)
        virtual_clock.advance(61)
        await fire(oq)
        await oq.delete_schedule(schedule_id)
        virtual_clock.advance(600)
        async with working(oq, "async") as pool:
            await pool.drain()
        assert await oq.get_result(schedule_id=schedule_id, kind="all") == [3]
        assert await oq.list_schedules() == []

    async def test_a_schedule_of_the_same_id_replaces_the_old_one(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        for interval, queue_name in ((3600, "low"), (60, "high")):
            await oq.schedule(tasks.nothing, interval=interval, queue_name=queue_name, schedule_id="mine")
        (schedule,) = await oq.list_schedules()
        assert (schedule.id, schedule.func, schedule.queue_name) == ("mine", "tests.core.tasks:nothing", "high")
        assert schedule.timing.interval == 60
        virtual_clock.advance(61)
        assert await fire(oq) == 1

    async def test_many_replace_it_at_once_and_one_stays(self, oq: AsyncOmniQ) -> None:
        calls = [oq.schedule(tasks.nothing, interval=60 + n, schedule_id="mine") for n in range(10)]
        assert set(await asyncio.gather(*calls)) == {"mine"}
        assert len(await oq.list_schedules()) == 1

    async def test_an_unknown_schedule_is_not_found(self, oq: AsyncOmniQ) -> None:
        calls = [
            oq.get_schedule("nobody"),
            oq.pause_schedule("nobody"),
            oq.resume_schedule("nobody"),
            oq.delete_schedule("nobody"),
            oq.get_result(schedule_id="nobody", timeout=SOON),
        ]
        for call in calls:
            with pytest.raises(ScheduleNotFound, match="nobody"):
                await call


class TestResults:
    async def test_first_latest_and_all(self, oq: AsyncOmniQ, log: Path, virtual_clock: VirtualClock) -> None:
        schedule_id = await oq.schedule(tasks.count_lines, [str(log)], interval=60)
        assert await oq.get_result(schedule_id=schedule_id, kind="all") == []
        async with working(oq, "async"):
            for slot in range(1, 4):
                virtual_clock.advance(60.5)
                await until(lambda: len(lines(log)) == slot)  # noqa: B023 (awaited at once)
                await until_states(oq, [task.id for task in await oq.list_tasks()], TaskState.SUCCESS)
        assert await oq.get_result(schedule_id=schedule_id, kind="first") == 1
        assert await oq.get_result(schedule_id=schedule_id) == 3
        assert await oq.get_result(schedule_id=schedule_id, kind="all") == [1, 2, 3]

    @pytest.mark.parametrize("kind", ["first", "latest"])
    async def test_the_first_result_is_waited_for(self, oq: AsyncOmniQ, kind: Any) -> None:
        schedule_id = await oq.schedule(tasks.add, [1, 2], interval=0.2)
        with pytest.raises(ResultTimeout, match=f"schedule {schedule_id} has no result after 0.05 s"):
            await oq.get_result(schedule_id=schedule_id, kind=kind, timeout=0.05)
        async with working(oq, "async"):
            assert await oq.get_result(schedule_id=schedule_id, kind=kind, timeout=SOON) == 3

    async def test_a_failure_is_raised(self, oq: AsyncOmniQ) -> None:
        schedule_id = await oq.schedule(tasks.fail, interval=0.1)
        async with working(oq, "async"):
            with pytest.raises(TaskFailed, match="no luck"):
                await oq.get_result(schedule_id=schedule_id, timeout=SOON)

    async def test_what_cannot_come_is_not_waited_for(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        begun = dt.datetime.fromtimestamp(virtual_clock.now(), dt.UTC)
        skipped = await oq.schedule(tasks.nothing, run_at=begun - dt.timedelta(days=1), misfire="skip")
        fired = await oq.schedule(tasks.nothing, run_at=begun, result_ttl=60)
        await fire(oq)
        waiting = asyncio.ensure_future(oq.get_result(schedule_id=fired, timeout=SOON))
        async with working(oq, "async"):
            assert await waiting is None
        virtual_clock.advance(61)
        for schedule_id in (skipped, fired):
            with pytest.raises(ResultExpired, match=f"schedule {schedule_id} has ended, and no result of it is kept"):
                await oq.get_result(schedule_id=schedule_id, timeout=SOON)

    async def test_another_kind_does_not_exist(self, oq: AsyncOmniQ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        with pytest.raises(InvalidTask, match="kind: expected 'latest', 'first' or 'all', got 'frist'"):
            await oq.get_result(schedule_id=schedule_id, kind="frist")  # type: ignore[arg-type]


class TestBadInput:
    @pytest.mark.parametrize("interval", [0, -1, 0.0001, float("nan"), float("inf"), "1h", True, 1e300])
    async def test_an_interval_is_a_time(self, oq: AsyncOmniQ, interval: Any) -> None:
        with pytest.raises(InvalidTask, match="^interval: "):
            await oq.schedule(tasks.nothing, interval=interval)
        assert await oq.list_schedules() == []

    @pytest.mark.parametrize(
        "option",
        [
            {"run_in": 5},
            {"depends_on": ["t"]},
            {"task_id": "t"},
            {"connection": 1},
        ],
    )
    async def test_what_only_a_single_task_can_have_is_refused(self, oq: AsyncOmniQ, option: dict[str, Any]) -> None:
        with pytest.raises(InvalidTask, match=f"^{next(iter(option))}: "):
            await oq.schedule(tasks.nothing, interval=60, **option)

    @pytest.mark.parametrize("option", [{"queue_name": "hihg"}, {"priority": 101}, {"ttl": -1}, {"max_retries": -1}])
    async def test_options_are_checked_as_for_a_task(self, oq: AsyncOmniQ, option: dict[str, Any]) -> None:
        with pytest.raises(InvalidTask, match=f"^{next(iter(option))}: "):
            await oq.schedule(tasks.nothing, interval=60, **option)

    async def test_an_id_is_printable_text(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(InvalidTask, match="^schedule_id: "):
            await oq.schedule(tasks.nothing, interval=60, schedule_id="a\nb")


def test_a_scheduler_fires_without_a_worker(log: Path) -> None:
    with TaskQueue(task_queue(reference_place())) as queue, Scheduler(queue) as scheduler:
        queue.schedule(tasks.nothing, interval=0.05)
        scheduler.start()
        scheduler.start()
        asyncio.run(until(lambda: len(queue.aio.store.space.tasks.stats(0.0)) > 0))  # type: ignore[attr-defined]
        scheduler.stop()
        scheduler.stop()
        assert {task.state for task in queue.list_tasks()} == {TaskState.PENDING}
