"""How soon a wait ends: by push, by a task's own time, and by polling while there is no push.

The other store names the server differently, so that no hint passes inside the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine

import pytest
from omniq.models.task import TaskState
from omniq.storage.records import Change
from omniq.testing.builders import claim, new_task, success, until_told
from omniq_redis.queue import RedisQueueStore

from tests.redis.support import QUEUE, elapsed, listening, opened
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.starvable

LONG = 60.0
SOON = 0.05
PUSHED = 0.5
"""Seconds within which only a push ends a wait, on a busy machine too."""
POLL = 1.1


@pytest.fixture
async def here(redis_server: RedisServer) -> AsyncIterator[RedisQueueStore]:
    async with opened(f"redis://127.0.0.1:{redis_server.port}") as store:
        await listening(store)
        yield store


@pytest.fixture
async def there(redis_server: RedisServer) -> AsyncIterator[RedisQueueStore]:
    async with opened(f"redis://localhost:{redis_server.port}") as store:
        yield store


async def woken(waiting: Coroutine[None, None, None], by: Coroutine[object, object, object]) -> float:
    """How many seconds after the call the wait ended."""
    wait = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.02)
    assert not wait.done()
    await by
    return await elapsed(wait)


class TestPush:
    async def test_an_add_elsewhere_ends_a_wait_soon(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        delays = []
        for _ in range(50):
            delays.append(await woken(here.wait([QUEUE], LONG), there.add([new_task()])))
            assert len(await claim(here)) == 1
        assert sorted(delays)[47] < SOON

    async def test_a_result_stored_elsewhere_ends_a_wait_soon(
        self, here: RedisQueueStore, there: RedisQueueStore
    ) -> None:
        await there.add([new_task("t"), new_task("u")])
        by_id = {record.id: record for record in await claim(there)}
        results = here.result_storage()
        await results.hear(0.1)  # only who has once waited for a result is told of them
        wait = asyncio.ensure_future(until_told(results, ["x", "t"], LONG))
        await asyncio.sleep(0.1)
        await there.transition([success(by_id["u"])])
        await asyncio.sleep(0.1)
        assert not wait.done()
        await there.transition([success(by_id["t"])])
        assert await elapsed(wait) < PUSHED
        await results.close()

    async def test_other_queues_end_no_wait(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.add([new_task()])
        assert await elapsed(here.wait(["other"], 0.3)) >= 0.29

    async def test_what_goes_back_elsewhere_ends_a_wait(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.add([new_task("t")])
        (record,) = await claim(there)
        back = Change(task_id="t", to=TaskState.PENDING, from_states=(TaskState.RUNNING,), epoch=record.epoch)
        assert await woken(here.wait([QUEUE], LONG), there.transition([back])) < PUSHED

    async def test_a_resumed_queue_ends_a_wait(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.pause(QUEUE, paused=True)
        await there.add([new_task()])
        await here.wait([QUEUE], 0.1)
        assert await woken(here.wait([QUEUE], LONG), there.pause(QUEUE, paused=False)) < PUSHED

    async def test_what_is_due_already_ends_a_wait_at_once(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.add([new_task()])
        assert await elapsed(here.wait([QUEUE], LONG)) < POLL


class TestDueLater:
    async def test_a_wait_ends_when_a_task_comes_due(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.add([new_task("late", delay=50), new_task("soon", delay=0.5)])
        assert 0.4 < await elapsed(here.wait([QUEUE], LONG)) < 0.5 + PUSHED
        assert [record.id for record in await claim(here)] == ["soon"]

    async def test_a_sooner_task_ends_it_sooner(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.add([new_task("late", delay=50)])
        assert 0.3 < await woken(here.wait([QUEUE], LONG), there.add([new_task("soon", delay=0.4)])) < 0.4 + PUSHED

    async def test_one_that_is_due_hides_none_that_comes_later(
        self, here: RedisQueueStore, there: RedisQueueStore
    ) -> None:
        adding = there.add([new_task("now"), new_task("soon", delay=0.5)])
        assert await woken(here.wait([QUEUE], LONG), adding) < 0.3
        assert [record.id for record in await claim(here)] == ["now"]
        assert await elapsed(here.wait([QUEUE], LONG)) < 0.5 + PUSHED
        assert [record.id for record in await claim(here)] == ["soon"]

    async def test_the_next_one_ends_the_next_wait(self, here: RedisQueueStore, there: RedisQueueStore) -> None:
        await there.add([new_task("first", delay=0.3), new_task("second", delay=0.6)])
        began = time.monotonic()
        for name in ("first", "second"):
            await here.wait([QUEUE], LONG)
            assert [record.id for record in await claim(here)] == [name]
        assert time.monotonic() - began < 0.6 + PUSHED


class TestWithoutPush:
    async def test_a_killed_subscription_costs_a_second_and_comes_back(
        self, redis_server: RedisServer, here: RedisQueueStore, there: RedisQueueStore
    ) -> None:
        for _ in range(5):
            await listening(here)
            killed = time.monotonic()
            redis_server.ask("CLIENT KILL", "TYPE", "pubsub")
            await there.add([new_task()])
            assert await elapsed(here.wait([QUEUE], LONG)) < POLL
            assert len(await claim(here)) == 1
            await here.wait([QUEUE], 0.2)
            assert await woken(here.wait([QUEUE], LONG), there.add([new_task()])) < PUSHED
            assert time.monotonic() - killed < 2.0
            assert len(await claim(here)) == 1

    async def test_without_a_subscription_waits_are_short(self, redis_server: RedisServer) -> None:
        redis_server.ask("ACL SETUSER", "joe", "on", ">r1ght", "~*", "+@all", "-subscribe")
        async with opened(f"redis://joe:r1ght@127.0.0.1:{redis_server.port}") as store:
            for _ in range(2):
                assert await elapsed(store.wait([QUEUE], LONG)) < POLL
            assert await elapsed(store.wait([QUEUE], 0.1)) < 0.2

    async def test_a_wait_outlives_the_server(self, redis_server: RedisServer, here: RedisQueueStore) -> None:
        await listening(here)
        await asyncio.to_thread(redis_server.kill)
        for _ in range(2):
            assert await elapsed(here.wait([QUEUE], LONG)) < POLL
        await asyncio.to_thread(redis_server.start)
        await listening(here)

    async def test_damaged_messages_end_nothing(
        self, redis_server: RedisServer, here: RedisQueueStore, there: RedisQueueStore
    ) -> None:
        await listening(here)
        assert redis_server.ask("PUBLISH", "{omniq:default}:news", "not msgpack") == 1
        await listening(here)
        await here.wait([QUEUE], 0.2)
        assert await woken(here.wait([QUEUE], LONG), there.add([new_task()])) < PUSHED


class TestQuiet:
    async def test_a_waiting_store_asks_nothing(self, redis_server: RedisServer, here: RedisQueueStore) -> None:
        await listening(here)
        await here.wait([QUEUE], 0.1)
        before = redis_server.ask("INFO", "stats")["total_commands_processed"]
        for _ in range(4):
            await here.wait([QUEUE], 0.5)
        assert redis_server.ask("INFO", "stats")["total_commands_processed"] - before <= 5  # the question's own
