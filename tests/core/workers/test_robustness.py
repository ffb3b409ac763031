"""Tasks that fail in every way that Python knows don't hurt the worker or the tasks beside them."""

from __future__ import annotations

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed

from tests.core import tasks
from tests.core.support import KINDS, SOON, front_door, plant, reference_place, working


@pytest.mark.parametrize("kind", KINDS)
async def test_tasks_whose_function_is_missing_fail_by_themselves(kind: str) -> None:
    async with front_door(reference_place()) as oq:
        missing = [await plant(oq, func="tests.core.tasks:gone") for _ in range(1200)]
        good = await oq.enqueue(tasks.add, [1, 2])
        async with working(oq, kind, max_workers=1, prefetch=1500):
            assert await oq.get_result(good, timeout=SOON) == 3
            for task_id in missing[::100]:
                with pytest.raises(TaskFailed, match="gone") as failed:
                    await oq.get_result(task_id, timeout=SOON)
                assert failed.value.error_type == "omniq.errors.FunctionNotFound"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_function_is_looked_for_again(oq: AsyncOmniQ, kind: str) -> None:
    task_id = await plant(oq, func="tests.core.tasks:gone", max_retries=2, retry_delay=0.01)
    async with working(oq, kind):
        with pytest.raises(TaskFailed, match="has no 'gone'"):
            await oq.get_result(task_id, timeout=SOON)
    assert (await oq.get_task(task_id)).attempts == 3
