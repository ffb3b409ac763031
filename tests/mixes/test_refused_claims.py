"""Where results aren't stored in the step that ends a task, a claim that lost its lease leaves one behind.

It is never taken for the task's: that is the result of the claim by which the task has ended.
"""

from __future__ import annotations

import asyncio

import pytest
from omniq import AsyncOmniQ
from omniq.errors import ResultExpired, ResultTimeout, TaskCancelled
from omniq.models import TaskState
from omniq.models.result import Outcome
from omniq.storage.records import Change, ChangeStatus, ResultRecord, TaskRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import reap

from tests.core import tasks
from tests.core.support import SOON, working
from tests.mixes.support import on_one_redis

pytestmark = on_one_redis

LEASE = 60.0


async def claim(oq: AsyncOmniQ) -> TaskRecord:
    """Claim the task that is due."""
    (record,) = await oq.task_queue.store.claim(["default"], limit=1, lease=LEASE, worker="w")
    return record


async def lapse(oq: AsyncOmniQ, clock: VirtualClock) -> None:
    """Let the lease run out, so that the task is there for others."""
    clock.advance(LEASE + 1)
    assert len(await reap(oq.task_queue.store)) == 1


async def succeed(oq: AsyncOmniQ, record: TaskRecord, value: object, *, ttl: float = 3600.0) -> ChangeStatus:
    """End the claim as a worker does."""
    serialization = oq.task_queue.serialization
    format, body = serialization.dump_value(value)
    outcome = serialization.pack_outcome(
        Outcome(value=body, value_format=format),
        task_id=record.id,
        epoch=record.epoch,
        status=TaskState.SUCCESS,
        schedule_id=record.schedule_id,
    )
    result = ResultRecord(
        task_id=record.id,
        epoch=record.epoch,
        status=TaskState.SUCCESS,
        body=outcome,
        ttl=ttl,
        schedule_id=record.schedule_id,
    )
    change = Change(
        task_id=record.id,
        to=TaskState.SUCCESS,
        from_states=(TaskState.RUNNING,),
        epoch=record.epoch,
        result=result,
    )
    (changed,) = await oq.task_queue.stores.settle([change])
    return changed.status


async def test_the_next_claim_s_result_counts(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    task_id = await oq.enqueue(tasks.nothing)
    late = await claim(oq)
    await lapse(oq, virtual_clock)
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    with pytest.raises(ResultTimeout):
        await oq.get_result(task_id, timeout=0.1)
    current = await claim(oq)
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    with pytest.raises(ResultTimeout):
        await oq.get_result(task_id, timeout=0.1)
    waiting = asyncio.create_task(oq.get_result(task_id, timeout=SOON))
    assert await succeed(oq, current, "current") is ChangeStatus.APPLIED
    assert await waiting == "current"
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    assert await oq.get_result(task_id, timeout=SOON) == "current"


async def test_a_worker_s_result_replaces_it(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    task_id = await oq.enqueue(tasks.echo, ["current"])
    late = await claim(oq)
    await lapse(oq, virtual_clock)
    waiting = asyncio.create_task(oq.get_result(task_id, timeout=SOON))
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    async with working(oq, "async"):
        assert await waiting == "current"
    assert (await oq.get_task(task_id)).epoch == 2


async def test_a_cancelled_task_stays_cancelled(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    task_id = await oq.enqueue(tasks.nothing)
    late = await claim(oq)
    await lapse(oq, virtual_clock)
    assert await oq.cancel(task_id)
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    with pytest.raises(TaskCancelled):
        await oq.get_result(task_id, timeout=SOON)
    assert (await oq.get_task(task_id)).state is TaskState.CANCELLED


async def test_it_doesn_t_stand_in_for_a_result_that_is_no_longer_kept(
    oq: AsyncOmniQ, virtual_clock: VirtualClock
) -> None:
    task_id = await oq.enqueue(tasks.nothing)
    late = await claim(oq)
    await lapse(oq, virtual_clock)
    assert await succeed(oq, await claim(oq), "current", ttl=10.0) is ChangeStatus.APPLIED
    virtual_clock.advance(11)
    await oq.result_store.purge()
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    with pytest.raises(ResultExpired):
        async with asyncio.timeout(2):
            await oq.get_result(task_id, timeout=SOON)


async def test_it_is_no_result_of_its_schedule(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    schedule_id = await oq.schedule(tasks.echo, ["current"], interval=60)
    virtual_clock.advance(61)
    assert await oq.task_queue.scheduler.fire_due() == 1
    await oq.pause_schedule(schedule_id)
    late = await claim(oq)
    await lapse(oq, virtual_clock)
    assert await succeed(oq, late, "late") is ChangeStatus.REFUSED
    assert await oq.get_result(schedule_id=schedule_id, kind="all") == []
    with pytest.raises(ResultTimeout):
        await oq.get_result(schedule_id=schedule_id, timeout=0.1)
    async with working(oq, "async"):
        assert await oq.get_result(schedule_id=schedule_id, timeout=SOON) == "current"
