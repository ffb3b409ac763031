"""A cluster of three nodes, and a failover that sentinels make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from omniq.errors import StoreUnavailable
from omniq.storage.records import NEW, ScheduleRecord, TaskFilter
from omniq.testing.builders import claim, fire, new_task, success
from omniq_redis.queue import RedisQueueStore
from redis.crc import key_slot

from tests.redis.support import QUEUE, elapsed, listening, opened, until
from tests.servers.redis import MASTER, RedisServer

Sentinels = tuple[list[RedisServer], RedisServer, RedisServer]


def addresses(servers: list[RedisServer]) -> str:
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)


def prefix_of(node: int) -> str:
    """A prefix with which the default project is on that node of three."""
    names = (f"on{node}-{number}" for number in range(1000))
    return next(name for name in names if key_slot(f"{{{name}:default}}:".encode()) * 3 // 16384 == node)


def replicated(primary: RedisServer) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return bool(await asyncio.to_thread(primary.ask, "WAIT", 1, 1000) >= 1)

    return ask


def takes_tasks(store: RedisQueueStore, task_id: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        try:
            await store.add([new_task(task_id)])
        except StoreUnavailable:
            return False
        return True

    return ask


class TestCluster:
    @pytest.fixture
    async def stores(self, redis_cluster: list[RedisServer]) -> AsyncIterator[list[RedisQueueStore]]:
        """Empty ones of three projects, which the nodes share among themselves."""
        for node in redis_cluster:
            node.ask("FLUSHALL")
        async with AsyncExitStack() as stack:
            urls = [
                f"redis+cluster://{addresses([node])}?prefix={prefix_of(n)}" for n, node in enumerate(redis_cluster)
            ]
            yield [await stack.enter_async_context(opened(url)) for url in urls]

    async def test_each_node_has_a_project(
        self, redis_cluster: list[RedisServer], stores: list[RedisQueueStore]
    ) -> None:
        for store in stores:
            assert await store.add([new_task(f"t{n}") for n in range(500)]) == [NEW] * 500
        assert [node.ask("DBSIZE") > 0 for node in redis_cluster] == [True] * 3

    async def test_tasks_run_their_course(self, stores: list[RedisQueueStore]) -> None:
        for store in stores:
            await store.add([new_task("t", ttl=60), new_task("u")])
            schedule = ScheduleRecord(id="s", queue_name=QUEUE, body=b"", next_run=0.0)
            assert await store.put_schedule(schedule, if_version=None)
            assert await fire(store, "s", if_version=1, next_run=None, task=new_task("v"))
            records = await claim(store)
            assert {changed.status for changed in await store.transition(list(map(success, records)))} == {"applied"}
            assert [result and result.body for result in await store.result_storage().get(["t", "v"])] == [
                b"result"
            ] * 2
            assert len((await store.find(TaskFilter())).tasks) == 3
            assert (await store.guarantees()).survives_process_kill

    async def test_a_push_comes_through(self, redis_cluster: list[RedisServer], stores: list[RedisQueueStore]) -> None:
        for number, store in enumerate(stores):
            other = f"redis+cluster://localhost:{redis_cluster[0].port}?prefix={prefix_of(number)}"
            async with opened(other) as there:
                await store.wait([QUEUE], 0.2)
                wait = asyncio.ensure_future(store.wait([QUEUE], 60))
                await asyncio.sleep(0.05)
                await there.add([new_task()])
                assert await elapsed(wait) < 0.5


class TestSentinel:
    async def test_after_a_failover_the_new_primary_serves(self, redis_sentinels: Sentinels) -> None:
        sentinels, primary, replica = redis_sentinels
        async with opened(f"redis+sentinel://{addresses(sentinels)}/{MASTER}") as store:
            await store.add([new_task("before")])
            await store.wait([QUEUE], 0.1)
            await until(replicated(primary))
            await asyncio.to_thread(primary.kill)
            await until(takes_tasks(store, "after"), 30)
            assert replica.ask("ROLE")[0] == "master"
            assert {record.id for record in await claim(store)} == {"before", "after"}
            await listening(store)
            await self._assert_push(store, f"redis+sentinel://{addresses(sentinels[:1])}/{MASTER}")

    async def _assert_push(self, store: RedisQueueStore, other_url: str) -> None:
        async with opened(other_url) as there:
            wait = asyncio.ensure_future(store.wait([QUEUE], 60))
            await asyncio.sleep(0.05)
            await there.add([new_task("later")])
            assert await elapsed(wait) < 0.5
