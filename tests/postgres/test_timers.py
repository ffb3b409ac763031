"""Tasks that come due within a millisecond, on each kind of event loop: uvloop's handles for those don't know when."""

from __future__ import annotations

import asyncio

from omniq import AsyncOmniQ
from omniq.storage.wakeups import News
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.queue import PostgresQueueStore

from tests.core import payloads, tasks
from tests.core.support import SOON, working
from tests.loops import on_each_loop, run_on


@on_each_loop
def test_an_alarm_may_ring_at_once(postgres_url: str, loop: str) -> None:
    async def body() -> None:
        store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(postgres_url))
        await store.connect()
        for _ in range(20_000):
            store.wakeups.tell(News({"default": 0.000_001}))
        waiting = asyncio.ensure_future(store.wait(["default"], SOON))
        done, _ = await asyncio.wait([waiting], timeout=SOON / 2)
        assert done
        await store.close()

    run_on(loop, body())


@on_each_loop
def test_many_tasks_may_come_due_and_be_tried_again_within_milliseconds(postgres_url: str, loop: str) -> None:
    async def body() -> None:
        async with AsyncOmniQ(config={"task_queue": {"url": postgres_url}}) as oq, working(oq, "async", max_workers=50):
            due = await asyncio.gather(*(oq.enqueue(tasks.add_async, [1, 2], run_in=0.001) for _ in range(300)))
            failing = [await oq.enqueue(payloads.fail_once_soon, max_retries=3) for _ in range(100)]
            found = await asyncio.gather(*(oq.get_result(id_, timeout=3 * SOON) for id_ in [*due, *failing]))
            assert found == [3] * 300 + [2] * 100

    run_on(loop, body())
