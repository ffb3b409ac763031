"""The roles of the documentation: each may do what it is for, and nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from omniq import AsyncOmniQ
from omniq.errors import StoreError
from omniq.models import EventType, TaskState
from omniq.storage.records import WorkerRecord

from tests.core.tasks import add, nothing
from tests.servers.postgres import PostgresServer

PAGE = Path(__file__).parents[2] / "docs" / "stores" / "postgres.md"
OWNER, OTHERS = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SOON = 20.0


def door(server: PostgresServer, role: str) -> AsyncOmniQ:
    url = server.url.replace("postgres@", f"shop_{role}:change-me@")
    return AsyncOmniQ("shop", config={"task_queue": {"url": url}, "event_store": {"url": url}})


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that has the roles, and the schema as its owner makes it."""
    server = PostgresServer("fsync=off")
    server.create()
    server.start()
    asyncio.run(_prepare(server))
    yield server
    server.remove()


async def _prepare(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute(OWNER)
    async with door(server, "owner") as owner:
        assert await owner.task_queue.stats() == []
    await connection.execute(OTHERS)
    await connection.close()


async def test_each_role_does_its_part(server: PostgresServer) -> None:
    async with door(server, "producer") as producer:
        task_id = await producer.enqueue(add, [1, 2])
        child = await producer.enqueue(add, [3, 4], depends_on=task_id)
        cancelled = await producer.enqueue(nothing, run_in=100)
        late = await producer.enqueue(nothing, ttl=0)
        await producer.schedule(nothing, interval=0.2, schedule_id="often")
        assert await producer.cancel(cancelled)
        async with door(server, "worker") as worker, door(server, "reader") as reader:
            async with worker.worker_pool("async", reap_interval=0.1, poll_interval=0.2):
                assert await producer.get_result(task_id, timeout=SOON) == 3
                assert await reader.get_result(child, timeout=SOON) == 7
                assert await producer.get_result(schedule_id="often", timeout=SOON) is None
                while (await reader.get_task(late)).state is not TaskState.EXPIRED:
                    await asyncio.sleep(0.01)
            assert await worker.task_queue.ttl.purge(retention=0.0) > 0
            await worker.task_queue.store.beat(WorkerRecord(name="w"))
            assert await producer.task_queue.store.inspect("w")
            assert await worker.task_queue.store.beat(WorkerRecord(name="w"))
            await worker.task_queue.pause_queue()
            await worker.task_queue.resume_queue()
            assert [schedule.id for schedule in await reader.list_schedules()] == ["often"]
            assert EventType.COMPLETE in {event.type for event in await reader.list_events()}
        await producer.pause_schedule("often")
        await producer.delete_schedule("often")


async def test_a_reader_writes_nothing_and_is_told_what_it_lacks(server: PostgresServer) -> None:
    async with door(server, "producer") as producer:
        task_id = await producer.enqueue(nothing)
    async with door(server, "reader") as reader:
        with pytest.raises(StoreError, match="table task: the role 'shop_reader' needs INSERT"):
            await reader.enqueue(nothing)
        with pytest.raises(StoreError, match="table task: the role 'shop_reader' needs UPDATE"):
            await reader.cancel(task_id)
        with pytest.raises(StoreError, match="table schedule: the role 'shop_reader' needs INSERT"):
            await reader.schedule(nothing, interval=1)
        assert (await reader.get_task(task_id)).state is TaskState.PENDING


async def test_a_producer_deletes_no_task(server: PostgresServer) -> None:
    async with door(server, "producer") as producer:
        assert await producer.cancel(await producer.enqueue(nothing))
        with pytest.raises(StoreError, match="the role 'shop_producer' needs DELETE"):
            await producer.task_queue.ttl.purge(retention=0.0)
