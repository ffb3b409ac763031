"""What stores start lazily can't be cancelled by a worker's task, and sees nothing of its first caller."""

from __future__ import annotations

import asyncio

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.loops import Background

from tests.core import tasks
from tests.core.support import SOON, results_of, until, working_elsewhere
from tests.core.workers import rude
from tests.mixes.support import on_one_redis

pytestmark = on_one_redis


async def test_all_that_goes_on_behind_a_caller_is_nobodys(oq: AsyncOmniQ) -> None:
    waiting = asyncio.ensure_future(oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON))
    listening = asyncio.ensure_future(oq.task_queue.store.wait(["default"], SOON))
    mine = {asyncio.current_task(), waiting, listening}
    # Connections are opened by tasks that soon end.
    await until(lambda: {type(task) for task in asyncio.all_tasks() - mine} == {Background})
    async with working_elsewhere(oq, "thread"):
        assert await waiting == 3
    listening.cancel()


async def test_a_task_that_cancels_everything_leaves_the_stores_alone(oq: AsyncOmniQ) -> None:
    async with working_elsewhere(oq, "async", lease=60.0):
        for _ in range(3):
            cancelling = await oq.enqueue(rude.cancel_everything)
            others = [await oq.enqueue(tasks.add_async, [n, 1]) for n in range(5)]
            assert await results_of(oq, others) == [1, 2, 3, 4, 5]
            with pytest.raises(TaskFailed, match="CancelledError"):
                await oq.get_result(cancelling, timeout=SOON)
