"""A worker that stops finishes what runs, hands the rest back uncharged, and another one goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from omniq import AsyncOmniQ, call
from omniq.models import TaskState
from omniq.testing import ReferenceSpace
from omniq.testing.builders import reap

from tests.core import tasks
from tests.core.support import (
    KINDS,
    GatedQueueStore,
    front_door,
    lines,
    reference_place,
    results_of,
    states_of,
    until,
    until_states,
    working,
)

WAITERS: list[tuple[str, Callable[..., Any]]] = [
    ("async", tasks.wait_for),
    ("async", tasks.wait_for_async),
    ("thread", tasks.wait_for),
    ("thread", tasks.wait_for_async),
    ("process", tasks.wait_for),
]


async def assert_uncharged(oq: AsyncOmniQ, task_ids: Sequence[str]) -> None:
    """They are in line as if nobody had ever claimed them."""
    found = [await oq.get_task(id_) for id_ in task_ids]
    assert {(task.state, task.attempts, task.crashes) for task in found} == {(TaskState.PENDING, 0, 0)}


async def test_what_waits_in_a_child_behind_a_running_task_is_handed_back(
    oq: AsyncOmniQ, log: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omniq.workers.process.LATE", 60.0)  # before that, it isn't taken from there for others
    gate.touch()
    async with working(oq, "process", max_workers=1, prefetch=20) as pool:
        await results_of(oq, [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(10)])
        gate.unlink()
        ids = await oq.enqueue_many([call(tasks.wait_for, [str(gate), str(log)])] * 6)
        await until_states(oq, ids, TaskState.RUNNING)
        await until(lambda: len(lines(log)) == 11 and pool.in_flight.buffered < 5)
        stopping = asyncio.create_task(pool.stop())
        while (await states_of(oq, ids)).count(TaskState.PENDING) < 5:
            await asyncio.sleep(0.01)
        gate.touch()
        await stopping
    assert len(lines(log)) == 11
    assert (await states_of(oq, ids)).count(TaskState.SUCCESS) == 1
    await assert_uncharged(oq, [task.id for task in await oq.list_tasks(state="pending")])


async def test_a_worker_stops_once_however_often_it_is_told(oq: AsyncOmniQ) -> None:
    async with working(oq, "async") as pool:
        await asyncio.gather(pool.stop(), pool.stop())
        await pool.stop()
        assert pool.finished.is_set()


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_stopping_at_any_moment_repeats_nothing_and_charges_nothing(oq: AsyncOmniQ, log: Path, kind: str) -> None:
    random = Random(1)
    ids = [await oq.enqueue(tasks.append, [str(log), f"t{n}"]) for n in range(400)]
    for _ in range(40):
        async with working(oq, kind, lease=60.0, max_workers=3):
            await asyncio.sleep(random.uniform(0.0, 0.01))
        assert {task.crashes for task in await oq.list_tasks(state="pending", limit=1000)} <= {0}
        assert await oq.list_tasks(state="running") == []
    async with working(oq, kind):
        await results_of(oq, ids)
    assert sorted(lines(log)) == sorted(f"t{n}" for n in range(400))


@pytest.mark.starvable
@pytest.mark.parametrize("kind", KINDS)
async def test_sync_tasks_that_no_slot_has_begun_are_handed_back(
    oq: AsyncOmniQ, log: Path, gate: Path, kind: str
) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(30)]
    async with working(oq, kind, max_workers=2, prefetch=28, grace_period=0.0, lease=60.0):
        await until_states(oq, ids, TaskState.RUNNING)
    gate.touch()
    await assert_uncharged(oq, ids)


async def test_tasks_whose_claim_is_under_way_are_handed_back() -> None:
    space = ReferenceSpace()
    store = GatedQueueStore(space)
    store.hold("claim")
    async with front_door(reference_place(queue=lambda _: store, space=space)) as oq:
        ids = [await oq.enqueue(tasks.nothing) for _ in range(3)]
        async with working(oq, "async", max_workers=3, lease=60.0) as pool:
            await store.reached["claim"].wait()
            stopping = asyncio.create_task(pool.stop())
            await asyncio.sleep(0)
            assert await states_of(oq, ids) == [TaskState.RUNNING] * 3
            store.let_go("claim")
            await stopping
        await assert_uncharged(oq, ids)


async def test_a_result_that_is_being_written_is_not_lost() -> None:
    space = ReferenceSpace()
    store = GatedQueueStore(space)
    async with front_door(reference_place(queue=lambda _: store, space=space)) as oq:
        store.hold("transition")
        task_id = await oq.enqueue(tasks.add, [1, 2])
        async with working(oq, "async", grace_period=0.05, lease=60.0) as pool:
            await store.reached["transition"].wait()
            stopping = asyncio.create_task(pool.stop())
            assert await asyncio.wait([stopping], timeout=0.3) == (set(), {stopping})
            store.let_go("transition")
            await stopping
        assert await results_of(oq, [task_id]) == [3]


async def test_a_suspect_that_waits_to_run_alone_is_handed_back(log: Path, gate: Path) -> None:
    async with front_door(reference_place()) as oq:
        suspect = await oq.enqueue(tasks.nothing)
        for _ in range(2):  # two workers die with it in their hands
            await oq.task_queue.store.claim(["default"], limit=1, lease=0.0, worker="dead")
            await reap(oq.task_queue.store)
        await oq.task_queue.pause_queue()
        running = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)], queue_name="low")
        async with working(oq, "async", max_workers=1, prefetch=1, lease=60.0, grace_period=0.05):
            await until(lambda: len(lines(log)) == 1)
            await oq.task_queue.resume_queue()
            await until_states(oq, [suspect, running], TaskState.RUNNING)
        task = await oq.get_task(suspect)
        assert (task.state, task.crashes, task.attempts) == (TaskState.PENDING, 2, 0)


@pytest.mark.starvable
async def test_a_task_that_ignores_its_cancellation_does_not_keep_the_worker(oq: AsyncOmniQ, log: Path) -> None:
    task_id = await oq.enqueue(tasks.stay, [str(log), 1.0])
    async with working(oq, "async", grace_period=0.0, lease=60.0) as pool:
        await until(lambda: len(lines(log)) == 1)
        async with asyncio.timeout(0.9):
            await pool.stop()
        await assert_uncharged(oq, [task_id])
        await until(lambda: len(lines(log)) == 2)


async def test_a_task_whose_remains_end_slowly_is_not_given_up(
    oq: AsyncOmniQ, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = oq.worker_pool("thread", grace_period=0.0)
    await pool.start()
    await oq.enqueue(tasks.leave_a_slow_coroutine, [str(log)])
    await until(lambda: len(lines(log)) == 1)
    await pool.stop()
    assert "goes on running" not in caplog.text
