"""An idle worker asks its store little, and wakes all the same: by push where the store has it, and without.

How soon is a measurement, `benchmarks/idle.py`. Here the worker polls so rarely that, within the time that these tests
wait, nothing but what they are about can have woken it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from omniq import AsyncOmniQ

from tests.idle.counting import count_calls
from tests.idle.places import Place, PostgresPlace, RedisPlace, place, until_listening
from tests.idle.remote import RemoteWorker, remote_worker
from tests.idle.worker import tell_start

STORES = ("sqlite", "postgres", "redis")
PUSHING = ("postgres", "redis")
WARM_UP = 2.0
IDLE = 6.0
CALLS_A_SECOND = 2.0
AT_THE_EDGES = 5
"""Calls that may fall into the time that is looked at because it begins and ends when it does: one of each kind."""
RARELY = 300.0
"""Seconds between two polls of a worker that should need none."""
SOON = 10.0


@pytest.fixture
async def worker(at: Place) -> AsyncIterator[RemoteWorker]:
    """The side that waits for them, in another process."""
    async with remote_worker(at.url, RARELY) as worker:
        yield worker


async def assert_wakes(oq: AsyncOmniQ, worker: RemoteWorker) -> None:
    """Add a task, which the worker starts soon."""
    task_id = await oq.enqueue(tell_start)
    async with asyncio.timeout(SOON):
        assert (await worker.next_start())[0] == task_id


@pytest.mark.server
@pytest.mark.slow
async def test_an_idle_worker_asks_at_most_twice_a_second() -> None:
    calls = {name: Counter[str]() for name in STORES}
    async with AsyncExitStack() as stack:
        places = {name: stack.enter_context(place(name)) for name in STORES}
        for name, found in places.items():
            oq = await stack.enter_async_context(AsyncOmniQ(config={"task_queue": {"url": found.url}}))
            count_calls(oq.task_queue.store, calls[name])
            count_calls(oq.result_store.store, calls[name])
            await oq.start_worker()
        await asyncio.sleep(WARM_UP)
        began = [await found.asked() for found in places.values()]
        for counted in calls.values():
            counted.clear()
        began_at = time.monotonic()
        await asyncio.sleep(IDLE)
        idle = time.monotonic() - began_at
        asked = [await found.asked() - before for found, before in zip(places.values(), began, strict=True)]
    limit = CALLS_A_SECOND * idle + AT_THE_EDGES
    assert {name: found for name, found in calls.items() if not 0 < found.total() <= limit} == {}
    # The servers count what this test asked, and their own upkeep, too.
    assert [count for count in asked if count > 2 * limit] == []


@pytest.mark.parametrize("at", STORES, indirect=True)
async def test_a_task_from_another_process_wakes_it(here: AsyncOmniQ, worker: RemoteWorker) -> None:
    for _ in range(5):
        await asyncio.sleep(0.1)  # it is idle again by then
        await assert_wakes(here, worker)


@pytest.mark.parametrize("at", PUSHING, indirect=True)
async def test_a_cut_connection_is_replaced_each_time(at: Place, here: AsyncOmniQ, worker: RemoteWorker) -> None:
    for _ in range(5):
        await until_listening(at)
        await at.kill_listeners()
        await assert_wakes(here, worker)
        await until_listening(at)
        await asyncio.sleep(0.1)
        await assert_wakes(here, worker)


@pytest.mark.parametrize("at", PUSHING, indirect=True)
async def test_a_server_that_comes_back_pushes_again(at: PostgresPlace | RedisPlace, here: AsyncOmniQ) -> None:
    async with remote_worker(at.url) as worker:
        await until_listening(at)
        await asyncio.to_thread(at.server.kill)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(at.server.start)
        await assert_wakes(here, worker)
        await until_listening(at)
        await assert_wakes(here, worker)
