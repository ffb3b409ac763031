"""Three servers that keep a stream together, of which one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from omniq.errors import StoreUnavailable
from omniq.models.task import TaskState
from omniq.storage.records import TaskFilter
from omniq.testing.builders import claim, new_tasks, success

from tests.nats.support import opened
from tests.servers.nats import NATSCluster

T = TypeVar("T")


async def test_it_survives_the_loss_of_a_server_under_load(nats_cluster: NATSCluster) -> None:
    tasks = new_tasks(600)
    ended = 0

    async with opened(nats_cluster.url) as producer, opened(nats_cluster.url) as worker:
        assert (await producer.guarantees()).survives_failover

        async def produce() -> None:
            for start in range(0, len(tasks), 10):
                await repeated(partial(producer.add, tasks[start : start + 10]))

        async def work() -> None:
            nonlocal ended
            while ended < len(tasks):
                records = await repeated(partial(claim, worker, limit=20))
                await repeated(partial(worker.transition, list(map(success, records))))
                ended = sum(queue.counts.get(TaskState.SUCCESS, 0) for queue in await repeated(worker.stats))

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(work())
            while ended < 100:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(nats_cluster.servers[0].kill)
        found = (await producer.find(TaskFilter(), limit=1000)).tasks
        assert {task.id for task in found} == {task.id for task in tasks}
        assert {task.epoch for task in found} == {1}


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns, made again while there is no leader."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(0.1)
