"""What a task does to its process is no matter of the tasks behind it: they succeed, and nothing is charged to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import TaskState

from tests.core import tasks
from tests.core.support import SOON, front_door, lines, reference_place, results_of, working
from tests.core.workers import process_tasks


async def surrounded(oq: AsyncOmniQ, how: str, log: Path) -> tuple[str, list[str]]:
    """A rude task between innocent ones, which one process gets at once since their functions are short."""
    await results_of(oq, [await oq.enqueue(process_tasks.rude, [""]) for _ in range(50)])
    await oq.task_queue.pause_queue()
    ids: list[str] = [await oq.enqueue(process_tasks.innocent, [str(log)])]
    rude = await oq.enqueue(process_tasks.rude, [how])
    ids += [await oq.enqueue(process_tasks.innocent, [str(log)]) for _ in range(4)]
    await oq.task_queue.resume_queue()
    return rude, ids


async def assert_innocent(oq: AsyncOmniQ, ids: list[str]) -> None:
    first, *others = await results_of(oq, ids)
    assert all(found == first for found in others)
    found = [await oq.get_task(id_) for id_ in ids]
    assert {(task.attempts, task.crashes) for task in found} == {(0, 0)}


@pytest.mark.parametrize("func", process_tasks.SURVIVED, ids=lambda func: str(func.__name__))
async def test_what_can_be_put_right_is_no_harm_to_anybody(log: Path, func: Callable[[], None]) -> None:
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1, prefetch=60, lease=60.0):
        rude, ids = await surrounded(oq, func.__name__, log)
        assert await oq.get_result(rude, timeout=SOON) is None
        await assert_innocent(oq, ids)
        assert (await oq.get_task(rude)).epoch == 1
        assert len(lines(log)) == len(ids)


@pytest.mark.parametrize("func", process_tasks.FAILING, ids=lambda func: str(func.__name__))
async def test_what_fails_fails_alone(log: Path, func: Callable[[], None]) -> None:
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1, prefetch=60, lease=60.0):
        rude, ids = await surrounded(oq, func.__name__, log)
        with pytest.raises(TaskFailed):
            await oq.get_result(rude, timeout=SOON)
        await assert_innocent(oq, ids)
        assert len(lines(log)) == len(ids)


@pytest.mark.parametrize("func", process_tasks.DEADLY, ids=lambda func: str(func.__name__))
async def test_what_is_deadly_is_charged_to_the_task_that_did_it(log: Path, func: Callable[[], None]) -> None:
    config = {"max_workers": 1, "prefetch": 60, "lease": 60.0, "max_crashes": 1}
    async with front_door(reference_place()) as oq, working(oq, "process", **config):
        rude, ids = await surrounded(oq, func.__name__, log)
        with pytest.raises(TaskFailed, match="died 1 times"):
            await oq.get_result(rude, timeout=SOON)
        await assert_innocent(oq, ids)
        # One that has begun before the spoilt line was noticed runs again.
        assert len(lines(log)) - len(ids) <= (func is process_tasks.write_to_the_line)


async def test_a_process_whose_descriptors_are_used_up_is_replaced(log: Path) -> None:
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1):
        (before,) = await results_of(oq, [await oq.enqueue(tasks.process_id)])
        await results_of(oq, [await oq.enqueue(process_tasks.use_up_descriptors)])
        (after,) = await results_of(oq, [await oq.enqueue(tasks.process_id)])
        assert after != before


async def test_a_process_that_a_task_leaves_a_thread_in_does_not_keep_the_worker(log: Path) -> None:
    async with front_door(reference_place()) as oq:
        async with working(oq, "process", max_workers=1):
            await results_of(oq, [await oq.enqueue(process_tasks.leave_a_thread)])
            (pid,) = await results_of(oq, [await oq.enqueue(tasks.process_id)])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert {task.state for task in await oq.list_tasks()} == {TaskState.SUCCESS}
