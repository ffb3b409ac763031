"""A server that is stopped where it stands, answers nobody and refuses nobody: deadlines hold, on every way to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import ResultTimeout
from omniq.workers import AsyncWorker

from tests.core import tasks
from tests.core.support import SOON, until
from tests.mixes.support import Url
from tests.reliability.outages import Server
from tests.reliability.servers import running

pytestmark = pytest.mark.starvable

TIMEOUT, ALLOWANCE = 1.0, 0.5
"""Seconds for which somebody wants to wait, and that it may take on top of them to be told."""


@pytest.fixture(scope="module", params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def config(server: Server) -> dict[str, dict[str, Url]]:
    return {"task_queue": {"url": server.url}, "result_store": {"url": server.url}}


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


async def seconds_until_told(call: Awaitable[object]) -> float:
    """How long it takes to be told that the store doesn't answer."""
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        await call
    return time.monotonic() - began


def waits(oq: AsyncOmniQ, blocking: OmniQ) -> dict[str, Callable[[], Awaitable[object]]]:
    """The ways to wait for a result with a deadline."""
    worker = AsyncWorker(oq.task_queue)
    return {
        "get_result": lambda: oq.get_result("nothing", timeout=TIMEOUT),
        "of a schedule": lambda: oq.get_result(schedule_id="nothing", timeout=TIMEOUT),
        "all of a schedule": lambda: oq.get_result(schedule_id="nothing", kind="all", timeout=TIMEOUT),
        "result_store.wait": lambda: oq.result_store.wait("nothing", timeout=TIMEOUT),
        "blocking": lambda: asyncio.to_thread(blocking.get_result, "nothing", timeout=TIMEOUT),
        "blocking store": lambda: asyncio.to_thread(_wait_in, blocking),
        "of a worker": lambda: asyncio.to_thread(worker.get_result, "nothing", timeout=TIMEOUT),
    }


def _wait_in(blocking: OmniQ) -> None:
    asyncio.run(blocking.aio.result_store.wait("nothing", timeout=TIMEOUT))


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "at-the-first-call"])
async def test_a_deadline_holds(server: Server, config: dict[str, dict[str, Url]], connected: bool) -> None:
    oq, blocking = AsyncOmniQ(config=config), OmniQ(config=config)
    if connected:
        await oq.connect()
        await asyncio.to_thread(blocking.connect)
    with frozen(server):
        calls = waits(oq, blocking)
        took = await asyncio.gather(*(seconds_until_told(call()) for call in calls.values()))
    assert {name: t for name, t in zip(calls, took, strict=True) if t > TIMEOUT + ALLOWANCE} == {}
    await asyncio.to_thread(blocking.close)
    await oq.close()


async def test_whoever_waits_without_a_deadline_of_ours_can_give_up(
    server: Server, config: dict[str, dict[str, Url]]
) -> None:
    async with AsyncOmniQ(config=config) as oq:
        task_id = await oq.enqueue(tasks.nothing)
        with frozen(server):
            began = time.monotonic()
            for call in (oq.get_result(task_id), oq.get_task(task_id), oq.enqueue(tasks.nothing)):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call, TIMEOUT / 4)
            assert time.monotonic() - began < TIMEOUT + ALLOWANCE


async def test_a_wait_goes_on_when_the_server_does(server: Server, config: dict[str, dict[str, Url]]) -> None:
    async with AsyncOmniQ(config=config) as oq:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        with frozen(server):
            waiting = asyncio.create_task(oq.get_result(task_id, timeout=SOON))
            await seconds_until_told(oq.get_result(task_id, timeout=0.1))
        async with oq.worker_pool("async"):
            assert await waiting == 3


async def test_a_worker_stops_within_its_grace_period(server: Server, config: dict[str, dict[str, Url]]) -> None:
    async with AsyncOmniQ(config=config) as oq:
        await oq.start_worker("async", lease=2.0)  # its own grace period is long
        ids = [await oq.enqueue(asyncio.sleep, [seconds]) for seconds in (0.2, 60.0)]
        assert oq._worker is not None
        pool = oq._worker
        await until(lambda: set(pool.in_flight.held) == set(ids))
        with frozen(server):
            began = time.monotonic()
            await oq.stop_worker(grace_period=TIMEOUT)
            assert time.monotonic() - began < TIMEOUT + ALLOWANCE
