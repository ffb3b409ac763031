"""The users of the documentation: each may do what its role does, in one project, and nothing else."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import StoreError
from omniq.models import TaskState
from omniq.storage.records import WorkerRecord

from tests.core.tasks import add, nothing
from tests.servers.redis import RedisServer

PAGE = Path(__file__).parents[2] / "docs" / "stores" / "redis.md"
LINES = re.findall(r"^ACL SETUSER .*$", PAGE.read_text("utf-8"), re.MULTILINE)
SOON = 20.0


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """A server that has the users, and a key of another project."""
    for line in LINES:
        assert redis_server.ask(*shlex.split(line)) == "OK"
    redis_server.ask("SET", "{omniq:bank}:version", 1)
    return redis_server


def door(server: RedisServer, role: str, project: str = "shop") -> AsyncOmniQ:
    url = f"redis://shop-{role}:change-me@127.0.0.1:{server.port}"
    return AsyncOmniQ(project, config={"task_queue": {"url": url, "config": {"queues": ["default"]}}})


def test_the_page_has_a_user_for_each_role() -> None:
    assert [line.split()[2] for line in LINES] == ["shop-reader", "shop-producer", "shop-worker"]


async def test_each_role_does_its_part(server: RedisServer) -> None:
    async with door(server, "producer") as producer:
        task_id = await producer.enqueue(add, [1, 2])
        child = await producer.enqueue(add, [3, 4], depends_on=task_id)
        cancelled = await producer.enqueue(nothing, run_in=100)
        late = await producer.enqueue(nothing, ttl=0)
        await producer.enqueue_many([])
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
            assert {queue.name for queue in await reader.task_queue.stats()} == {"default"}
            assert [schedule.id for schedule in await reader.list_schedules()] == ["often"]
            assert await reader.list_tasks(state="pending") == []
        await producer.pause_schedule("often")
        await producer.delete_schedule("often")


@pytest.mark.parametrize("role", ["reader", "producer", "worker"])
async def test_no_role_reaches_another_project(server: RedisServer, role: str) -> None:
    with pytest.raises(StoreError, match=r"(?i)no permissions|permission to access|can't|key"):
        async with door(server, role, "bank") as oq:
            await oq.list_tasks()
    assert server.ask("KEYS", "{omniq:bank}:*") == ["{omniq:bank}:version"]


async def test_a_reader_writes_nothing_and_is_told_so(server: RedisServer) -> None:
    async with door(server, "producer") as producer:
        task_id = await producer.enqueue(nothing)
    before = server.ask("DBSIZE")
    async with door(server, "reader") as reader:
        for forbidden in (reader.enqueue(nothing), reader.cancel(task_id), reader.schedule(nothing, interval=1)):
            with pytest.raises(StoreError, match=r"(?i)can't run this command|no permissions to run"):
                await forbidden
        assert [task.state for task in await reader.list_tasks()] == ["pending"]
    assert server.ask("DBSIZE") == before
