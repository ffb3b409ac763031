"""What becomes of slots: missed ones, those of a busy schedule, and tasks beside them."""

from __future__ import annotations

import datetime as dt

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, ScheduleNotFound
from omniq.models import TaskState
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.support import SOON, working


async def fire_all(oq: AsyncOmniQ) -> int:
    """Fire until nothing is due, as a scheduler does that runs; returns how many tasks that added."""
    fired = 0
    for _ in range(1000):
        scheduler = oq.task_queue.scheduler
        before = [schedule.next_run for schedule in await scheduler.list()]
        fired += await scheduler.fire_due()
        if before == [schedule.next_run for schedule in await scheduler.list()]:
            return fired
    raise AssertionError("it never ends")


async def slots_of(oq: AsyncOmniQ) -> list[float]:
    return sorted(task.run_at.timestamp() for task in await oq.list_tasks(limit=1000))


@pytest.mark.parametrize(
    ("misfire", "grace", "late", "fired"),
    [
        ("latest", 60, 35, 4),  # within its grace, every slot is fired
        ("latest", 5, 35, 1),
        ("skip", 5.5, 35, 1),  # the one that is 5 s late is in time
        ("skip", 4, 35, 0),
        ("all", 0, 35, 4),
        ("skip", 60, 35, 4),
        ("latest", None, 3595, 360),
    ],
)
async def test_missed_slots(
    oq: AsyncOmniQ, virtual_clock: VirtualClock, misfire: str, grace: float | None, late: float, fired: int
) -> None:
    interval = 10.0
    await oq.schedule(tasks.nothing, interval=interval, schedule_id="s", misfire=misfire, grace=grace)  # type: ignore[arg-type]
    first = (await oq.get_schedule("s")).next_run
    assert first is not None
    virtual_clock.advance(interval + late)
    assert await fire_all(oq) == fired
    slots = await slots_of(oq)
    assert len(set(slots)) == fired
    after = (await oq.get_schedule("s")).next_run
    assert after is not None
    assert 0 < after.timestamp() - virtual_clock.now() <= interval
    assert all((slot - first.timestamp()) % interval < 1e-3 for slot in slots)


async def test_a_busy_schedule_leaves_slots_out(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    await oq.schedule(tasks.nothing, interval=60, schedule_id="s", max_running=2)
    for _ in range(5):
        virtual_clock.advance(60.1)
        await fire_all(oq)
    assert len(await oq.list_tasks()) == 2
    for task in await oq.list_tasks():
        await oq.cancel(task.id)
    virtual_clock.advance(60.1)
    assert await fire_all(oq) == 1


async def test_jitter_delays_tasks_and_moves_no_slot(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    await oq.schedule(tasks.nothing, interval=60, schedule_id="s", jitter=20)
    first = (await oq.get_schedule("s")).next_run
    assert first is not None
    for _ in range(10):
        virtual_clock.advance(60)
        await fire_all(oq)
    delays = [slot - (first.timestamp() + 60 * n) for n, slot in enumerate(await slots_of(oq))]
    assert all(0 <= delay < 20 for delay in delays)
    assert len({round(delay, 3) for delay in delays}) == 10


async def test_the_last_run_is_told(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    await oq.schedule(tasks.nothing, interval=60, schedule_id="s")
    before = await oq.get_schedule("s")
    assert before.last_run is None
    virtual_clock.advance(61)
    await fire_all(oq)
    after = await oq.get_schedule("s")
    assert after.last_run == before.next_run
    assert after.preview(3)[0] == after.next_run
    await oq.schedule(tasks.nothing, interval=60, schedule_id="s")
    assert (await oq.get_schedule("s")).last_run == before.next_run


async def test_one_time_ends_the_schedule(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    at = dt.datetime.fromtimestamp(virtual_clock.now() + 100, dt.UTC)
    await oq.schedule(tasks.nothing, run_at=at, schedule_id="s")
    assert (await oq.get_schedule("s")).next_run == at
    virtual_clock.advance(101)
    assert await fire_all(oq) == 1
    schedule = await oq.get_schedule("s")
    assert (schedule.state, schedule.next_run, schedule.last_run, schedule.preview()) == ("ended", None, at, [])
    await oq.schedule(tasks.nothing, run_at=at, schedule_id="s")
    assert await fire_all(oq) == 0, "declared again, it has ended still"


async def test_it_runs_now_beside_its_slots(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    await oq.schedule(tasks.add, [1, 2], interval=60, schedule_id="s", queue_name="high")
    before = await oq.get_schedule("s")
    task_id = await oq.run_schedule("s")
    async with working(oq, "async"):
        assert await oq.get_result(task_id, timeout=SOON) == 3
    task = await oq.get_task(task_id)
    assert (task.schedule_id, task.queue_name, task.state) == ("s", "high", TaskState.SUCCESS)
    assert await oq.get_schedule("s") == before
    with pytest.raises(ScheduleNotFound):
        await oq.run_schedule("none")


async def test_what_never_fires_is_refused(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    for timing in ({"cron": "0 0 30 2 *"}, {"interval": 60, "end": dt.datetime(2001, 1, 1, tzinfo=dt.UTC)}):
        with pytest.raises(InvalidTask, match="schedule: it has no time left to fire"):
            await oq.schedule(tasks.nothing, **timing)
    assert await oq.list_schedules() == []


async def test_misspelt_options_are_named(oq: AsyncOmniQ) -> None:
    with pytest.raises(InvalidTask, match="corn: no such option, did you mean 'cron'"):
        await oq.schedule(tasks.nothing, corn="* * * * *")  # type: ignore[call-arg]
    with pytest.raises(InvalidTask, match="run_in: the tasks of a schedule can't have it"):
        await oq.schedule(tasks.nothing, interval=1, run_in=5)  # type: ignore[call-arg]
