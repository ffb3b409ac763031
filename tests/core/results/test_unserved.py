"""Who waits for a result that no worker will bring is told so at once, once, and for next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import ResultTimeout
from omniq.queue import MemoryTaskQueue
from omniq.storage.records import WorkerRecord
from omniq.testing import ReferenceQueueStore, VirtualClock

from tests.core import tasks
from tests.core.support import front_door, reference_place, until, working

HINT = ": no living worker serves queue 'low'"
WARNING = "no living worker serves queue 'low': start one with `omniq worker --queues low`"


class CountingQueueStore(ReferenceQueueStore):
    """Counts how often it is asked for the workers."""

    asked = 0

    async def workers(self) -> list[WorkerRecord]:
        type(self).asked += 1
        return await super().workers()


@pytest.fixture
async def oq() -> AsyncIterator[AsyncOmniQ]:
    CountingQueueStore.asked = 0
    async with front_door(reference_place(queue=CountingQueueStore)) as oq:
        yield oq


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "no living worker" in record.getMessage()]


async def test_it_is_said_at_once_once_and_by_the_error(oq: AsyncOmniQ, caplog: pytest.LogCaptureFixture) -> None:
    ids = [await oq.enqueue(tasks.nothing, queue_name="low") for _ in range(50)]
    waiting = asyncio.gather(*(oq.get_result(id_, timeout=2) for id_ in ids), return_exceptions=True)
    await until(lambda: warnings(caplog) == [WARNING])
    assert not waiting.done()
    errors = await waiting
    assert [str(error) for error in errors] == [f"task {id_} is still pending after 2 s{HINT}" for id_ in ids]
    assert warnings(caplog) == [WARNING]
    assert CountingQueueStore.asked == 1


async def test_however_short_the_wait_is(oq: AsyncOmniQ) -> None:
    task_id = await oq.enqueue(tasks.nothing, queue_name="low")
    with pytest.raises(ResultTimeout, match=HINT):
        await oq.get_result(task_id, timeout=0.1)


async def test_watchers_are_told_too(oq: AsyncOmniQ, caplog: pytest.LogCaptureFixture) -> None:
    task_id = await oq.enqueue(tasks.nothing, queue_name="low")
    with pytest.raises(ResultTimeout, match=f"is still pending{HINT}"):
        async for _ in oq.watch(task_id, timeout=1.5):
            pass
    assert warnings(caplog) == [WARNING]


async def test_who_waits_for_a_schedule_is_told_too(
    oq: AsyncOmniQ, caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock
) -> None:
    await oq.schedule(tasks.nothing, interval=60, schedule_id="s", queue_name="low")
    virtual_clock.advance(61)
    with pytest.raises(ResultTimeout):
        await oq.get_result(schedule_id="s", timeout=1.0)
    assert warnings(caplog) == [WARNING]


async def test_nothing_is_said_where_it_is_not_so(oq: AsyncOmniQ, caplog: pytest.LogCaptureFixture) -> None:
    parent = await oq.enqueue(tasks.nothing, run_in=60)
    waiting = [await oq.enqueue(tasks.nothing, run_in=60), await oq.enqueue(tasks.nothing, depends_on=parent)]
    served = await oq.enqueue(tasks.nothing, queue_name="low")
    await oq.task_queue.store.beat(WorkerRecord(name="busy", queues=("low",)))
    for task_id in (*waiting, served):
        with pytest.raises(ResultTimeout) as raised:
            await oq.get_result(task_id, timeout=0.1)
        assert "worker" not in str(raised.value)
    assert warnings(caplog) == []


async def test_a_wait_that_is_answered_soon_costs_no_question(oq: AsyncOmniQ) -> None:
    async with working(oq, "async", lease=600.0):
        CountingQueueStore.asked = 0
        for _ in range(3):
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2])) == 3
    assert CountingQueueStore.asked == 0


def test_blocking_callers_are_told_too() -> None:
    with OmniQ(task_queue=MemoryTaskQueue(project_name="unserved", queues=["low"])) as oq:
        task_id = oq.enqueue(tasks.nothing, queue_name="low")
        with pytest.raises(ResultTimeout, match=HINT):
            oq.get_result(task_id, timeout=0.1)
