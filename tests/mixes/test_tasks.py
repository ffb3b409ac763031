"""Tasks, results and events each in their own store: what users see is the same as with one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import ResultExpired, TaskCancelled, TaskExpired, TaskFailed, TaskNotFound
from omniq.models import EventType, ResultStatus, TaskState
from omniq.queue.options import TaskCall
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.support import SOON, lines, results_of, states_of, until, until_states, working
from tests.mixes.support import MixedPlace, event_types, on_one_redis

pytestmark = on_one_redis


async def test_sync_and_async_tasks_give_their_results(oq: AsyncOmniQ) -> None:
    functions = (tasks.add, tasks.add_async)
    async with working(oq, "async", max_workers=10):
        pairs = [(function, n) for n in range(50) for function in functions]
        ids = await oq.enqueue_many(TaskCall(func=function, func_args=[n, 1]) for function, n in pairs)
        ids += await asyncio.gather(*(oq.enqueue(tasks.add_async, {"x": n, "y": 2}) for n in range(20)))
        values = await results_of(oq, ids)
    assert values == [n + 1 for _, n in pairs] + [n + 2 for n in range(20)]
    assert set(await states_of(oq, ids)) == {TaskState.SUCCESS}


async def test_each_part_is_where_it_was_put(place: MixedPlace, oq: AsyncOmniQ) -> None:
    async with working(oq, "async"):
        task_id = await oq.enqueue(tasks.add, [1, 2])
        await oq.get_result(task_id, timeout=SOON)
    assert oq.event_store is not None
    stores = (oq.task_queue.store, oq.result_store.store, oq.event_store.store)
    kinds = [store.location.partition(":")[0].replace("reference", "memory") for store in stores]
    assert kinds == [place.mix.queue, place.mix.results, place.mix.events]
    same_place = place.mix.queue == place.mix.results
    assert oq.task_queue.stores.atomic is same_place
    beside_the_queue = oq.task_queue.store.result_storage()
    if beside_the_queue is not None:
        assert [found is not None for found in await beside_the_queue.get([task_id])] == [same_place]
        await beside_the_queue.close()


async def test_another_front_door_sees_it_all(place: MixedPlace, oq: AsyncOmniQ) -> None:
    async with place.front_door() as other, working(other, "async"):
        task_id = await oq.enqueue(tasks.echo, [{"a": [1, None]}], metadata={"of": "oq"})
        assert await oq.get_result(task_id, timeout=SOON) == {"a": [1, None]}
        assert (await other.get_task(task_id)).metadata == {"of": "oq"}
    assert await event_types(oq, task_id) == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
    with pytest.raises(TaskNotFound):
        await oq.get_result("nobody", timeout=SOON)


async def test_a_failing_task_is_tried_again_until_it_succeeds(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    async with working(oq, "async"):
        task_id = await oq.enqueue(tasks.fail_without, [str(gate), str(log)], max_retries=100, retry_delay=0.02)
        await until(lambda: len(lines(log)) > 1)
        gate.touch()
        assert await oq.get_result(task_id, timeout=SOON) == "done"
    failed = (await oq.get_task(task_id)).attempts
    assert failed == len(lines(log)) - 1
    types = await event_types(oq, task_id)
    assert types.count(EventType.RETRY) == failed
    assert (types[0], types[-1]) == (EventType.ENQUEUED, EventType.COMPLETE)


async def test_a_task_that_keeps_failing_is_a_dead_letter_and_can_be_requeued(
    oq: AsyncOmniQ, log: Path, gate: Path
) -> None:
    async with working(oq, "async"):
        task_id = await oq.enqueue(tasks.fail_without, [str(gate), str(log)], max_retries=1, retry_delay=0.01)
        with pytest.raises(TaskFailed, match="no such file") as failed:
            await oq.get_result(task_id, timeout=SOON)
        assert "fail_without" in failed.value.remote_traceback
    assert [task.id for task in await oq.list_dead()] == [task_id]
    types = [EventType.ENQUEUED, EventType.EXECUTING, EventType.RETRY, EventType.EXECUTING, EventType.ERROR]
    assert await event_types(oq, task_id) == [*types, EventType.DEAD_LETTERED]
    gate.touch()
    assert await oq.requeue(task_id)
    async with working(oq, "async"):
        assert await oq.get_result(task_id, timeout=SOON) == "done"
    assert await oq.list_dead() == []


async def test_children_wait_for_their_parents(oq: AsyncOmniQ, log: Path) -> None:
    note = [str(log)]
    parents = [await oq.enqueue(tasks.append, [*note, name], run_in=0.1) for name in ("a", "b")]
    child = await oq.enqueue(tasks.append, [*note, "c"], depends_on=parents, queue_name="high")
    grandchild = await oq.enqueue(tasks.append, [*note, "d"], depends_on=[child], queue_name="high")
    async with working(oq, "async"):
        assert await oq.get_result(grandchild, timeout=SOON) == "d"
    assert sorted(lines(log)[:2]) == ["a", "b"]
    assert lines(log)[2:] == ["c", "d"]


async def test_children_of_a_failed_parent_are_cancelled(oq: AsyncOmniQ) -> None:
    parent = await oq.enqueue(tasks.fail)
    child = await oq.enqueue(tasks.nothing, depends_on=[parent])
    anyway = await oq.enqueue(tasks.add, [1, 2], depends_on=[parent], on_parent_failure="run")
    async with working(oq, "async"):
        with pytest.raises(TaskCancelled):
            await oq.get_result(child, timeout=SOON)
        assert await oq.get_result(anyway, timeout=SOON) == 3
    result = await oq.result_store.get(child)
    assert result is not None
    assert (result.status, result.error_type) == (ResultStatus.CANCELLED, "ParentFailed")
    assert EventType.CANCELLED in await event_types(oq, child)


async def test_a_schedule_s_results(oq: AsyncOmniQ, log: Path, virtual_clock: VirtualClock) -> None:
    schedule_id = await oq.schedule(tasks.count_lines, [str(log)], interval=60)
    async with working(oq, "async"):
        for slot in range(1, 4):
            virtual_clock.advance(60.5)
            await until(lambda: len(lines(log)) == slot)  # noqa: B023 (awaited at once)
            await until_states(oq, [task.id for task in await oq.list_tasks()], TaskState.SUCCESS)
        await oq.pause_schedule(schedule_id)
    assert await oq.get_result(schedule_id=schedule_id, kind="latest", timeout=SOON) == 3
    assert await oq.get_result(schedule_id=schedule_id, kind="first", timeout=SOON) == 1
    assert await oq.get_result(schedule_id=schedule_id, kind="all", timeout=SOON) == [1, 2, 3]
    (paused,) = await oq.list_events(schedule_id=schedule_id, type="SCHEDULE_PAUSED")
    assert paused.task_id is None


async def test_a_task_that_isn_t_started_in_time_expires(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    late = await oq.enqueue(tasks.nothing, ttl=60)
    in_time = await oq.enqueue(tasks.add, [1, 2], ttl=600)
    virtual_clock.advance(61)
    async with working(oq, "async"):
        with pytest.raises(TaskExpired):
            await oq.get_result(late, timeout=SOON)
        assert await oq.get_result(in_time, timeout=SOON) == 3
    result = await oq.result_store.get(late)
    assert result is not None
    assert result.status is ResultStatus.EXPIRED
    assert await event_types(oq, late) == [EventType.ENQUEUED, EventType.EXPIRED]


async def test_a_result_is_kept_for_its_ttl(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    async with working(oq, "async"):
        short = await oq.enqueue(tasks.add, [1, 2], result_ttl=60)
        long = await oq.enqueue(tasks.add, [3, 4], result_ttl=600)
        assert await results_of(oq, [short, long]) == [3, 7]
    virtual_clock.advance(61)
    with pytest.raises(ResultExpired):
        await oq.get_result(short, timeout=SOON)
    assert await oq.get_result(long, timeout=SOON) == 7
    assert (await oq.get_task(short)).state is TaskState.SUCCESS
    assert await event_types(oq, short) == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]


@pytest.mark.starvable  # the lease is short, so that the worker hears soon
async def test_tasks_are_cancelled_before_and_while_they_run(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    waiting = await oq.enqueue(tasks.nothing, run_in=60)
    assert await oq.cancel(waiting)
    with pytest.raises(TaskCancelled):
        await oq.get_result(waiting, timeout=SOON)
    async with working(oq, "async", lease=0.6):
        running = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        await until(lambda: len(lines(log)) == 1)
        assert await oq.cancel(running)
        with pytest.raises(TaskCancelled):
            await oq.get_result(running, timeout=SOON)
    assert lines(log)[1:] == ["cancelled"]
    assert await states_of(oq, [waiting, running]) == [TaskState.CANCELLED] * 2
    assert [(await event_types(oq, id_))[-1] for id_ in (waiting, running)] == [EventType.CANCELLED] * 2
