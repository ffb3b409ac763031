"""One task wakes few of the workers that wait, and none is left while anybody waits.

Each worker has a process of its own and polls so rarely that nothing but a call can have woken it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from omniq import AsyncOmniQ
from omniq.queue.options import TaskCall

from tests.idle.places import Place
from tests.idle.remote import RemoteWorker, remote_worker
from tests.idle.worker import hold, tell_start

on_all = pytest.mark.parametrize("at", ["sqlite", "postgres", "redis"], indirect=True)
where_news_are_pushed = pytest.mark.parametrize("at", ["postgres", "redis"], indirect=True)

RARELY = 300.0
"""Seconds between two polls."""
SOON = 10.0
QUIET = 0.3
"""Seconds after which everybody waits again."""


@asynccontextmanager
async def workers(at: Place, count: int, *, slots: int = 10) -> AsyncIterator[list[RemoteWorker]]:
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(remote_worker(at.url, RARELY, slots)) for _ in range(count)]
        await asyncio.sleep(QUIET)
        yield found


async def first_start(workers: Sequence[RemoteWorker]) -> str:
    """The id of the task that one of them starts next. Raises `TimeoutError`."""
    waits = [asyncio.ensure_future(worker.next_start()) for worker in workers]
    try:
        async with asyncio.timeout(SOON):
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()[0]
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def claims(workers: Sequence[RemoteWorker]) -> int:
    return sum([(await worker.calls())["claim"] for worker in workers])


@where_news_are_pushed
@pytest.mark.starvable
@pytest.mark.slow
async def test_a_task_wakes_one_of_those_that_wait(at: Place, here: AsyncOmniQ) -> None:
    # Were all woken, each would claim for each task, and the one that gets it once more than there is. Where nothing is
    # pushed, all look by chance before it is taken, if the machine is slow enough.
    tasks, count = 10, 6
    async with workers(at, count) as idle:
        before = await claims(idle)
        for _ in range(tasks):
            task_id = await here.enqueue(tell_start)
            assert await first_start(idle) == task_id
            await asyncio.sleep(QUIET)
        assert await claims(idle) - before <= 0.5 * tasks * (count + 1)


async def one_by_one(oq: AsyncOmniQ, count: int) -> None:
    for _ in range(count):
        await oq.enqueue(hold)


async def together(oq: AsyncOmniQ, count: int) -> None:
    await oq.enqueue_many([TaskCall(func=hold) for _ in range(count)])


async def while_paused(oq: AsyncOmniQ, count: int) -> None:
    await oq.task_queue.pause_queue()
    await together(oq, count)
    await asyncio.sleep(QUIET)
    await oq.task_queue.resume_queue()


@on_all
@pytest.mark.parametrize("enqueue", [one_by_one, together, while_paused])
async def test_as_many_wake_as_there_are_tasks(
    at: Place, here: AsyncOmniQ, enqueue: Callable[[AsyncOmniQ, int], Awaitable[None]]
) -> None:
    async with workers(at, 3, slots=1) as idle:
        await enqueue(here, len(idle))
        async with asyncio.timeout(SOON):
            started = [await worker.next_start() for worker in idle]
        for worker in idle:
            worker.kill()
        assert len({task_id for task_id, _ in started}) == len(idle)


@on_all
async def test_one_that_was_killed_leaves_the_task_to_the_next(at: Place, here: AsyncOmniQ) -> None:
    async with workers(at, 3) as idle:
        for victim in list(idle[1:]):
            victim.kill()
        await asyncio.sleep(QUIET)
        for _ in range(3):
            task_id = await here.enqueue(tell_start)
            async with asyncio.timeout(SOON):
                assert (await idle[0].next_start())[0] == task_id
            await asyncio.sleep(QUIET)


@on_all
async def test_one_that_has_stopped_leaves_the_task_to_the_next(at: Place, here: AsyncOmniQ) -> None:
    async with here.worker_pool("async", poll_interval=RARELY):
        await asyncio.sleep(QUIET)
    async with workers(at, 1) as (idle,):
        async with here.worker_pool("async", poll_interval=RARELY):
            await asyncio.sleep(QUIET)
        task_id = await here.enqueue(tell_start)
        async with asyncio.timeout(SOON):
            assert (await idle.next_start())[0] == task_id
