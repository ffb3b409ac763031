"""In which order tasks are taken: queue by queue, by priority, or by turns; and from which queues."""

from __future__ import annotations

from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask
from omniq.models import TaskState
from omniq.workers import fetching

from tests.core import tasks
from tests.core.support import KINDS, Place, front_door, lines, results_of, states_of, until, working


async def test_a_worker_serves_the_queues_that_it_is_given_in_their_order(oq: AsyncOmniQ, log: Path) -> None:
    for name in ("high", "default", "low"):
        await oq.enqueue(tasks.append, [str(log), name], queue_name=name)
    async with working(oq, "async", max_workers=1, prefetch=0, queues=["low", "high", "low"]) as pool:
        assert list(pool.report().queues) == ["low", "high"]
        await pool.drain()
    assert lines(log) == ["low", "high"]


async def test_weighted_turns_starve_no_queue(place: Place, log: Path) -> None:
    queues = ("first", "second", "third")
    async with front_door(place, queues=queues) as oq:
        for name in queues:
            for _ in range(150):
                await oq.enqueue(tasks.append, [str(log), name], queue_name=name)
        async with working(oq, "async", max_workers=1, prefetch=0, policy="weighted"):
            await until(lambda: len(lines(log)) >= 150)
    seen = lines(log)[:150]
    counts = [seen.count(name) for name in queues]
    assert counts[2] > 5, counts
    assert counts[0] > counts[2], counts


async def test_a_paused_queue_is_passed_over_until_it_is_resumed(oq: AsyncOmniQ, log: Path) -> None:
    await oq.task_queue.pause_queue("high")
    paused = await oq.enqueue(tasks.append, [str(log), "high"], queue_name="high")
    other = await oq.enqueue(tasks.append, [str(log), "low"], queue_name="low")
    async with working(oq, "async") as pool:
        await results_of(oq, [other])
        await pool.drain()
        assert await states_of(oq, [paused]) == [TaskState.PENDING]
        await oq.task_queue.resume_queue("high")
        await results_of(oq, [paused])
    assert lines(log) == ["low", "high"]


async def test_only_a_declared_queue_can_be_paused(oq: AsyncOmniQ) -> None:
    with pytest.raises(InvalidTask, match="queue_name: 'hihg'"):
        await oq.task_queue.pause_queue("hihg")


async def test_workers_share_the_work_and_take_no_task_twice(place: Place, log: Path) -> None:
    async with front_door(place) as one, front_door(place) as other:
        ids = [await one.enqueue(tasks.append, [str(log), f"t{n}"]) for n in range(200)]
        async with working(one, "async", prefetch=2), working(other, "thread", prefetch=2):
            await results_of(one, ids)
            workers = {(await one.get_task(id_)).worker for id_ in ids}
    assert sorted(lines(log)) == sorted(f"t{n}" for n in range(200))
    assert len(workers) == 2


@pytest.mark.starvable  # a worker claims ahead what it has seen to be short
@pytest.mark.parametrize("kind", KINDS)
async def test_what_waits_behind_a_slow_task_goes_to_another_worker(
    place: Place, log: Path, gate: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "STALE_AFTER_S", 0.3)
    async with front_door(place) as one, front_door(place) as other, working(one, kind, max_workers=1) as pool:
        await results_of(one, [await one.enqueue(tasks.nothing) for _ in range(500)])  # short ones: it claims ahead
        await one.task_queue.pause_queue()
        slow = await one.enqueue(tasks.wait_for, [str(gate), str(log)], priority=1)
        behind = [await one.enqueue(tasks.add, [n, 1]) for n in range(10)]
        await one.task_queue.resume_queue()
        await until(lambda: len(lines(log)) == 1)
        assert len(pool.in_flight.held) > 1
        async with working(other, "async"):
            assert await results_of(other, behind) == [n + 1 for n in range(10)]
        assert await states_of(one, [slow]) == [TaskState.RUNNING]
        gate.touch()
        assert await results_of(one, [slow]) == ["done"]
