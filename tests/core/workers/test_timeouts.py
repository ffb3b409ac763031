"""What runs longer than it may is ended, really, and its slot is free for the next task."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import TaskState
from omniq.workers.jobs import Job

from tests.core import tasks
from tests.core.support import KINDS, SOON, front_door, lines, reference_place, results_of, until, until_states, working

pytestmark = pytest.mark.starvable


async def assert_timed_out(oq: AsyncOmniQ, task_id: str) -> None:
    with pytest.raises(TaskFailed, match=r"ran longer than its timeout of 0\.2 s") as failed:
        await oq.get_result(task_id, timeout=SOON)
    assert failed.value.error_type == "omniq.errors.TaskTimeout"


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_an_async_task_is_cancelled(oq: AsyncOmniQ, log: Path, gate: Path, kind: str) -> None:
    slow = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)], timeout=0.2)
    next_ = await oq.enqueue(tasks.add_async, [1, 2])
    async with working(oq, kind, max_workers=1):
        await assert_timed_out(oq, slow)
        assert lines(log)[1:] == ["cancelled"]
        assert await oq.get_result(next_, timeout=SOON) == 3


@pytest.mark.parametrize("func", [tasks.sleep_in_c, tasks.loop_for_ever])
async def test_a_process_is_killed_and_replaced(oq: AsyncOmniQ, log: Path, func: Callable[..., Any]) -> None:
    slow = await oq.enqueue(func, [str(log)], timeout=0.2)
    next_ = await oq.enqueue(tasks.process_id)
    async with working(oq, "process", max_workers=1):
        await assert_timed_out(oq, slow)
        (pid,) = map(int, lines(log))
        assert not psutil.pid_exists(pid)
        assert await oq.get_result(next_, timeout=SOON) != pid
    task = await oq.get_task(slow)
    assert (task.attempts, task.crashes) == (1, 0)


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_thread_is_given_up_and_its_slot_is_free(oq: AsyncOmniQ, log: Path, gate: Path, kind: str) -> None:
    slow = await oq.enqueue(tasks.wait_for, [str(gate), str(log)], timeout=0.2)
    next_ = [await oq.enqueue(tasks.add, [n, 2]) for n in range(3)]
    async with working(oq, kind, max_workers=1):
        await assert_timed_out(oq, slow)
        assert await results_of(oq, next_) == [2, 3, 4]
        gate.touch()  # what goes on running changes nothing by its end
        await until(lambda: sum(thread.name == "omniq-task" for thread in threading.enumerate()) <= 1)
        assert (await oq.get_task(slow)).state is TaskState.ERROR
    assert len(lines(log)) == 1


async def test_a_task_on_a_thread_sees_that_its_time_is_over(oq: AsyncOmniQ, log: Path) -> None:
    slow = await oq.enqueue(tasks.wait_until_cancelled, [str(log)], timeout=0.2)
    async with working(oq, "thread", max_workers=1):
        await assert_timed_out(oq, slow)
        await until(lambda: lines(log)[1:] == ["cancelled"])


@pytest.mark.parametrize("kind", KINDS)
async def test_finished_tasks_with_a_long_timeout_leave_nothing_behind(oq: AsyncOmniQ, kind: str) -> None:
    ids = [await oq.enqueue(tasks.nothing, timeout=3600) for _ in range(60)]
    async with working(oq, kind):
        assert await results_of(oq, ids) == [None] * 60
        await until(lambda: not [kept for kept in gc.get_objects() if type(kept) is Job and kept.record.id in ids])


async def test_a_task_that_ends_just_as_its_time_is_over_harms_nobody() -> None:
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1, prefetch=50):
        close = [await oq.enqueue(tasks.sleep, [0.03], timeout=0.03 + n * 0.0003) for n in range(8)]
        others = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
        assert await results_of(oq, others) == [n + 1 for n in range(20)]
        await until_states(oq, close, TaskState.SUCCESS, TaskState.ERROR)
        assert {(await oq.get_task(id_)).crashes for id_ in [*close, *others]} == {0}
        assert {task.id for task in await oq.list_dead()} <= set(close)
