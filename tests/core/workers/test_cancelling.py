"""A running task that is cancelled stops: by a cancellation, by a signal, or because it looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskCancelled
from omniq.models import TaskState

from tests.core import tasks
from tests.core.support import SOON, lines, until, working

CANCELLABLE: list[tuple[str, Callable[..., Any]]] = [
    ("async", tasks.wait_until_cancelled),
    ("async", tasks.stay_away),
    ("thread", tasks.wait_until_cancelled),
    ("thread", tasks.stay_away),
    ("process", tasks.sleep_in_c),
    ("process", tasks.loop_for_ever),
]
QUICK = {"lease": 0.3}
"""A cancellation is heard of when leases are renewed."""


@pytest.mark.parametrize(("kind", "func"), CANCELLABLE)
async def test_a_running_task_is_cancelled(oq: AsyncOmniQ, log: Path, kind: str, func: Callable[..., Any]) -> None:
    task_id = await oq.enqueue(func, [str(log)], max_retries=3)
    async with working(oq, kind, max_workers=1, **QUICK):
        await until(lambda: len(lines(log)) == 1)
        assert await oq.cancel(task_id) is True
        assert (await oq.get_task(task_id)).cancel_requested
        with pytest.raises(TaskCancelled):
            await oq.get_result(task_id, timeout=SOON)
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
    task = await oq.get_task(task_id)
    assert (task.state, task.attempts, task.crashes) == (TaskState.CANCELLED, 0, 0)


async def test_the_process_of_a_cancelled_task_is_gone(oq: AsyncOmniQ, log: Path) -> None:
    task_id = await oq.enqueue(tasks.sleep_in_c, [str(log)])
    async with working(oq, "process", max_workers=1, **QUICK):
        await until(lambda: len(lines(log)) == 1)
        await oq.cancel(task_id)
        with pytest.raises(TaskCancelled):
            await oq.get_result(task_id, timeout=SOON)
        assert not psutil.pid_exists(int(lines(log)[0]))


async def test_a_task_that_ends_before_it_hears_of_its_cancellation_has_succeeded(
    oq: AsyncOmniQ, log: Path, gate: Path
) -> None:
    task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
    async with working(oq, "thread", lease=60.0):
        await until(lambda: len(lines(log)) == 1)
        assert await oq.cancel(task_id) is True
        gate.touch()
        assert await oq.get_result(task_id, timeout=SOON) == "done"


async def test_a_task_that_cleans_up_is_cancelled_once(oq: AsyncOmniQ, log: Path) -> None:
    ids = [await oq.enqueue(tasks.clean_up, [str(log), 0.5]) for _ in range(2)]
    async with working(oq, "async", **QUICK), working(oq, "thread", **QUICK):
        await until(lambda: len(lines(log)) == 2)
        for task_id in ids:
            await oq.cancel(task_id)
        for task_id in ids:
            with pytest.raises(TaskCancelled):
                await oq.get_result(task_id, timeout=SOON)
    assert lines(log).count("clean") == 2


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_task_that_fails_after_its_cancellation_is_not_run_again(oq: AsyncOmniQ, log: Path, kind: str) -> None:
    task_id = await oq.enqueue(tasks.fail_once_cancelled, [str(log)], max_retries=3, retry_delay=0.01)
    async with working(oq, kind, **QUICK):
        await until(lambda: len(lines(log)) == 1)
        await oq.cancel(task_id)
        with pytest.raises(TaskCancelled):
            await oq.get_result(task_id, timeout=SOON)
    assert len(lines(log)) == 1
