"""The faults of `tests.reliability.faults` in small, and connections that nobody uses when they are reset."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from omniq.errors import StoreUnavailable
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.queue import PostgresQueueStore
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.queue import RedisQueueStore
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.queue import SQLiteQueueStore

from tests.core import tasks
from tests.core.support import FAST, SOON, results_of
from tests.loops import on_each_loop, run_on
from tests.reliability.faults import Size, front_door, play, proxied
from tests.reliability.outages import Server
from tests.reliability.servers import POSTGRES, running

REDIS = "redis"
SMALL = Size(tasks=30, cuts=1, resets=3, outage=0.5)
WORKERS = 8


@pytest.fixture(scope="module", params=[POSTGRES, REDIS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(kind: str) -> Iterator[Server]:
    with running(kind) as server:
        yield server


def test_faults_cost_no_task_no_value_and_no_worker(server: Server, kind: str, pytestconfig: pytest.Config) -> None:
    verdict = run_on(pytestconfig.option.loop, play("everything", server, kind, SMALL))
    assert not verdict.complaints, str(verdict)
    assert verdict.tasks >= SMALL.tasks


@on_each_loop
def test_idle_workers_and_clients_outlive_the_reset_of_their_connections(
    server: Server, kind: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def idle() -> None:
        with proxied(server, kind) as (proxy, url):
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(front_door(kind, url, apart=False))
                pools = [await stack.enter_async_context(client.worker_pool("async", **FAST)) for _ in range(WORKERS)]
                for _ in range(2):
                    assert await results_of(client, [await client.enqueue(tasks.add, [1, 2])]) == [3]
                    await asyncio.sleep(0.3)
                    assert proxy.reset_all() > 0
                    await asyncio.sleep(0.05)
                ids = [await client.enqueue(tasks.add, [n, n]) for n in range(WORKERS)]
                assert await results_of(client, ids) == [2 * n for n in range(WORKERS)]
                assert [pool.failure for pool in pools] == [None] * WORKERS

    run_on(loop, idle())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_store_that_has_no_descriptors_left_works_again_when_there_are_some(
    server: Server, kind: str, tmp_path: Path
) -> None:
    stores = [
        PostgresQueueStore(PostgresTaskQueueConfig.from_url(server.url))
        if kind == POSTGRES
        else RedisQueueStore(RedisTaskQueueConfig.from_url(server.url)),
        SQLiteQueueStore(SQLiteTaskQueueConfig(path=str(tmp_path / "q.db"))),
    ]
    for store in stores:
        with no_descriptors():
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await store.connect()
        await store.connect()
        assert await store.get(["nothing"]) == [None]
        await store.close()


async def test_a_worker_goes_on_when_it_has_descriptors_again(server: Server, kind: str) -> None:
    with proxied(server, kind) as (proxy, url):
        async with front_door(kind, url, apart=False) as oq, oq.worker_pool("async", **FAST) as pool:
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
            with no_descriptors():
                proxy.reset_all()
                with pytest.raises(StoreUnavailable):
                    await oq.list_tasks()
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
            assert pool.failure is None


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no file and no socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
