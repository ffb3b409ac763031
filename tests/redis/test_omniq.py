"""OmniQ on Redis: each way to say where, and workers that outlive their server."""

from __future__ import annotations

import asyncio
import tempfile
import time
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.queue import AsyncRedisTaskQueue, RedisTaskQueue
from omniq.storage import AsyncRedisResultStorage, RedisResultStorage
from omniq_redis.backend import RedisBackend
from omniq_redis.config import RedisTaskQueueConfig

from tests.servers.redis import RedisServer


async def double(number: int) -> int:
    return 2 * number


async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


class TestWaysToSayWhere:
    async def _assert_works(self, oq: AsyncOmniQ) -> None:
        async with oq:
            await oq.start_worker()
            assert await oq.get_result(await oq.enqueue(double, [21]), timeout=10) == 42

    async def test_constructors(self, redis_server: RedisServer) -> None:
        place = {"host": "127.0.0.1", "port": redis_server.port}
        queue, results = AsyncRedisTaskQueue(**place), AsyncRedisResultStorage(**place)  # type: ignore[arg-type]
        await self._assert_works(AsyncOmniQ(project_name="shop", task_queue=queue, result_store=results))

    async def test_a_socket_of_the_file_system(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            server = RedisServer("valkey9", "--unixsocket", f"{folder}/redis.sock")
            server.start()
            try:
                for place in (
                    f"unix://{folder}/redis.sock?db=1",
                    RedisTaskQueueConfig(unix_socket_path=f"{folder}/redis.sock"),
                ):
                    await self._assert_works(AsyncOmniQ(project_name="shop", task_queue=place))
                assert server.ask("INFO", "keyspace").keys() == {"db0", "db1"}
            finally:
                server.remove()

    async def test_a_config_struct(self, redis_server: RedisServer) -> None:
        config = RedisTaskQueueConfig(host="127.0.0.1", port=redis_server.port)
        await self._assert_works(AsyncOmniQ(task_queue=AsyncRedisTaskQueue.from_config(config)))

    async def test_type_and_config(self, redis_server: RedisServer) -> None:
        choice: dict[str, Any] = {"type": "redis", "config": {"host": "127.0.0.1", "port": redis_server.port}}
        await self._assert_works(AsyncOmniQ(config={"task_queue": choice, "result_store": choice}))

    async def test_a_url_in_the_environment(self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", redis_server.url)
        await self._assert_works(AsyncOmniQ())

    async def test_a_backend(self, redis_server: RedisServer) -> None:
        backend = RedisBackend(host="127.0.0.1", port=redis_server.port, queues=["high"])
        await self._assert_works(AsyncOmniQ.from_backend(backend))

    def test_the_blocking_facades(self, redis_server: RedisServer) -> None:
        queue = RedisTaskQueue(host="127.0.0.1", port=redis_server.port)
        results = RedisResultStorage(host="127.0.0.1", port=redis_server.port)
        with OmniQ(task_queue=queue, result_store=results) as oq:
            oq.start_worker()
            assert oq.get_result(oq.enqueue(double, [21]), timeout=10) == 42
            assert queue.guarantees().survives_process_kill


class TestServerDeath:
    @pytest.mark.starvable
    async def test_workers_consume_again_once_the_server_is_back(self, redis_server: RedisServer) -> None:
        async with AsyncOmniQ(config={"task_queue": {"url": redis_server.url}}) as oq:
            await oq.start_worker("async", max_workers=10, lease=5.0, reap_interval=0.5)
            ids = [await oq.enqueue(nap, [0.05]) for _ in range(200)]
            for _ in range(2):
                await asyncio.to_thread(redis_server.kill)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(redis_server.start)
                back = time.monotonic()
                fresh = await oq.enqueue(double, [1])
                assert await oq.get_result(fresh, timeout=30) == 2
                assert time.monotonic() - back < 5.0
            assert await asyncio.gather(*(oq.get_result(id_, timeout=30) for id_ in ids)) == [0.05] * 200
