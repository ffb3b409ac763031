"""Tasks that kill the child process which runs them: they are parked, and nobody else suffers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskCancelled, TaskFailed
from omniq.models import TaskState
from omniq.testing.builders import reap

from tests.core import oddities, tasks
from tests.core.support import KINDS, SOON, lines, results_of, until, working


@pytest.mark.parametrize("how", ["exit", "sigkill", "segfault"])
async def test_poison_is_parked_after_three_deaths(oq: AsyncOmniQ, log: Path, how: str) -> None:
    before = [await oq.enqueue(tasks.add, [n, 1]) for n in range(3)]
    poison = await oq.enqueue(oddities.die, [str(log), how], max_retries=5)
    after = [await oq.enqueue(tasks.add, [n, 2]) for n in range(9)]
    async with working(oq, "process", max_workers=2, prefetch=20):
        assert await results_of(oq, before) == [1, 2, 3]
        assert await results_of(oq, after) == [n + 2 for n in range(9)]
        with pytest.raises(TaskFailed, match="died 3 times") as failed:
            await oq.get_result(poison, timeout=SOON)
    assert failed.value.error_type == "omniq.errors.WorkerCrashed"
    assert len(lines(log)) == 3
    (dead,) = await oq.list_dead()
    assert (dead.id, dead.state, dead.crashes, dead.attempts) == (poison, TaskState.ERROR, 3, 0)
    assert {(task.attempts, task.crashes) for task in await oq.list_tasks(state="success")} == {(0, 0)}


async def test_a_requeued_poison_gets_its_three_deaths_again(oq: AsyncOmniQ, log: Path) -> None:
    poison = await oq.enqueue(oddities.die, [str(log), "exit"])
    async with working(oq, "process", max_workers=1):
        with pytest.raises(TaskFailed, match="died 3 times"):
            await oq.get_result(poison, timeout=SOON)
        await oq.requeue(poison)
        with pytest.raises(TaskFailed, match="died 3 times"):
            await oq.get_result(poison, timeout=SOON)
    assert len(lines(log)) == 6


async def test_how_many_deaths_are_too_many_can_be_said(oq: AsyncOmniQ, log: Path) -> None:
    poison = await oq.enqueue(oddities.die, [str(log), "exit"])
    async with working(oq, "process", max_workers=1, max_crashes=1):
        with pytest.raises(TaskFailed, match="died 1 times"):
            await oq.get_result(poison, timeout=SOON)
    assert len(lines(log)) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_that_has_died_too_often_already_is_parked_unrun(oq: AsyncOmniQ, log: Path, kind: str) -> None:
    poison = await oq.enqueue(tasks.append, [str(log), "ran"])
    for _ in range(3):  # three workers die with it in their hands, and nobody buries it
        await oq.task_queue.store.claim(["default"], limit=1, lease=0.0, worker="dead")
        await reap(oq.task_queue.store)
    async with working(oq, kind):
        with pytest.raises(TaskFailed, match="died 3 times"):
            await oq.get_result(poison, timeout=SOON)
    task = await oq.get_task(poison)
    assert (task.state, task.crashes, task.attempts) == (TaskState.ERROR, 3, 0)
    assert lines(log) == []


async def test_a_death_is_noticed_though_a_copy_of_the_process_lives_on(oq: AsyncOmniQ, log: Path) -> None:
    poison = await oq.enqueue(oddities.die_beside_a_fork, [str(log)])
    async with working(oq, "process", max_workers=1, max_crashes=1):
        with pytest.raises(TaskFailed, match="died 1 times"):
            await oq.get_result(poison, timeout=SOON)
    (left,) = lines(log)
    os.kill(int(left), signal.SIGKILL)


async def test_an_idle_child_that_is_killed_is_replaced_and_no_task_is_blamed(oq: AsyncOmniQ) -> None:
    async with working(oq, "process", max_workers=1):
        first = await oq.get_result(await oq.enqueue(tasks.process_id), timeout=SOON)
        os.kill(first, signal.SIGKILL)
        await until(lambda: not psutil.pid_exists(first))
        task_id = await oq.enqueue(tasks.process_id)
        assert await oq.get_result(task_id, timeout=SOON) != first
    assert (await oq.get_task(task_id)).crashes == 0


async def one_bunch(oq: AsyncOmniQ, first: str, log: Path) -> tuple[str, list[str]]:
    """A task that does what `first` says, and five of its function behind it, which a process gets at once.

    It does once their function is known to be quick.
    """
    await results_of(oq, [await oq.enqueue(tasks.append_or, [str(log), "warm-up"]) for _ in range(100)])
    await oq.task_queue.pause_queue()
    task_id = await oq.enqueue(tasks.append_or, [str(log), first], priority=1)
    behind: list[str] = [await oq.enqueue(tasks.append_or, [str(log), f"t{n}"]) for n in range(5)]
    await oq.task_queue.resume_queue()
    return task_id, behind


async def assert_ran_once(oq: AsyncOmniQ, task_ids: list[str], log: Path) -> None:
    assert sorted(await results_of(oq, task_ids)) == [f"t{n}" for n in range(5)]
    assert sorted(line for line in lines(log) if line.startswith("t")) == [f"t{n}" for n in range(5)]
    found = [await oq.get_task(id_) for id_ in task_ids]
    assert {(task.attempts, task.crashes, task.epoch) for task in found} == {(0, 0, 1)}


@pytest.mark.starvable  # a bunch is what was seen to be short
async def test_tasks_behind_one_that_kills_their_process_are_not_charged(oq: AsyncOmniQ, log: Path) -> None:
    async with working(oq, "process", max_workers=1, max_crashes=1, prefetch=100):
        poison, behind = await one_bunch(oq, "die", log)
        with pytest.raises(TaskFailed, match="died 1 times"):
            await oq.get_result(poison, timeout=SOON)
        await assert_ran_once(oq, behind, log)


@pytest.mark.starvable
async def test_tasks_behind_one_that_is_cancelled_are_not_charged(oq: AsyncOmniQ, log: Path) -> None:
    async with working(oq, "process", max_workers=1, lease=0.3, prefetch=100):
        slow, behind = await one_bunch(oq, "sleep", log)
        await until(lambda: "sleep" in lines(log))
        await oq.cancel(slow)
        with pytest.raises(TaskCancelled):
            await oq.get_result(slow, timeout=SOON)
        await assert_ran_once(oq, behind, log)
