"""Both front doors and each kind of worker, on tasks in Redis, results in Postgres and events in SQLite."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskCancelled, TaskFailed
from omniq.models import EventType, TaskState

from tests.core import tasks
from tests.core.support import FAST, KINDS, SOON, lines, results_of
from tests.mixes.support import SPREAD, MixedPlace, Url, event_types, on_one_redis

pytestmark = on_one_redis

RUN = [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]


@pytest.fixture
def place(urls: dict[str, Url]) -> MixedPlace:
    return MixedPlace(SPREAD, urls)


@pytest.mark.parametrize("kind", KINDS)
async def test_asyncomniq(place: MixedPlace, log: Path, kind: str) -> None:
    async with place.front_door() as oq:
        await oq.start_worker(kind, **FAST)
        ids = [await oq.enqueue(function, [n, 1]) for n in range(5) for function in (tasks.add, tasks.add_async)]
        assert await results_of(oq, ids) == [n + 1 for n in range(5) for _ in range(2)]
        failing = await oq.enqueue(tasks.fail_async, max_retries=1, retry_delay=0.01)
        with pytest.raises(TaskFailed, match="no luck"):
            await oq.get_result(failing, timeout=SOON)
        parent = await oq.enqueue(tasks.append, [str(log), "parent"], run_in=0.05)
        child = await oq.enqueue(tasks.append, [str(log), "child"], depends_on=[parent])
        assert await oq.get_result(child, timeout=SOON) == "child"
        schedule_id = await oq.schedule(tasks.add, [1, 2], interval=0.1)
        assert await oq.get_result(schedule_id=schedule_id, timeout=SOON) == 3
        await oq.delete_schedule(schedule_id)
        await oq.stop_worker()
        assert await event_types(oq, ids[0]) == RUN
        assert [task.id for task in await oq.list_dead()] == [failing]
    assert lines(log) == ["parent", "child"]


@pytest.mark.parametrize("kind", KINDS)
def test_omniq(place: MixedPlace, log: Path, gate: Path, kind: str) -> None:
    with place.blocking_door(kind) as oq:
        oq.start_worker()
        ids = [oq.enqueue(function, {"x": n, "y": 1}) for n in range(5) for function in (tasks.add, tasks.add_async)]
        assert [oq.get_result(id_, timeout=SOON) for id_ in ids] == [n + 1 for n in range(5) for _ in range(2)]
        with pytest.raises(TaskFailed, match="no luck"):
            oq.get_result(oq.enqueue(tasks.fail), timeout=SOON)
        waiting = oq.enqueue(tasks.wait_for, [str(gate), str(log)])
        later = oq.enqueue(tasks.nothing, depends_on=[waiting])
        oq.cancel(later)
        gate.touch()
        assert oq.get_result(waiting, timeout=SOON) == "done"
        with pytest.raises(TaskCancelled):
            oq.get_result(later, timeout=SOON)
        schedule_id = oq.schedule(tasks.add, [1, 2], interval=0.1)
        assert oq.get_result(schedule_id=schedule_id, timeout=SOON) == 3
        oq.delete_schedule(schedule_id)
        oq.stop_worker()
        assert [event.type for event in oq.list_events(task_id=ids[-1], oldest_first=True)] == RUN
        assert oq.get_task(later).state is TaskState.CANCELLED


async def test_many_tasks_by_two_workers(place: MixedPlace) -> None:
    count = 500
    async with place.front_door() as oq, place.front_door() as other:
        await oq.start_worker("async", **FAST)
        await other.start_worker("thread", **FAST)
        began = time.monotonic()
        ids = [await oq.enqueue(tasks.echo, [n]) for n in range(count)]
        assert await results_of(oq, ids) == list(range(count))
        assert time.monotonic() - began < SOON
        await oq.stop_worker()
        await other.stop_worker()
        done = await oq.list_events(type="COMPLETE", limit=2 * count)
        assert sorted(event.task_id or "" for event in done) == sorted(ids)


def test_a_front_door_is_one_of_both(place: MixedPlace) -> None:
    with place.blocking_door("async") as oq:
        assert isinstance(oq.aio, AsyncOmniQ)
        assert oq.aio.task_queue.store.location.startswith("redis:")
        assert oq.aio.result_store.store.location.startswith("postgres:")
