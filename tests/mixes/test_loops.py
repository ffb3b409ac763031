"""Event loops that come and go: what each had open is closed with it, on the server's side too."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import ResultTimeout, TaskNotFound

from tests.core import tasks
from tests.loops import LOOPS, on_each_loop, run_on
from tests.mixes.support import Url, on_one_redis

pytestmark = on_one_redis

RUNS = int(os.environ.get("OMNIQ_TEST_LOOPS", "110"))
"""More than the connections that a PostgreSQL server has by default."""
FEW = 12


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, urls: dict[str, Url]) -> Url:
    return urls[request.param]


def door(url: Url) -> AsyncOmniQ:
    return AsyncOmniQ(config={"task_queue": {"url": url}, "result_store": {"url": url}})


async def look(oq: AsyncOmniQ) -> str:
    """Read and write, and leave without a word."""
    with pytest.raises(TaskNotFound):
        await oq.get_task("nobody")
    return await oq.enqueue(tasks.nothing)


async def visit(oq: AsyncOmniQ) -> None:
    """Read, write and wait, and leave without a word."""
    task_id = await look(oq)
    with pytest.raises(ResultTimeout):
        await oq.get_result(task_id, timeout=0.001)


def open_now() -> tuple[int, int, int]:
    """How many connections, descriptors and threads of ours there are."""
    process = psutil.Process()
    connections = [found for found in process.net_connections("tcp") if found.status == psutil.CONN_ESTABLISHED]
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("omniq-sqlite")]
    return len(connections), process.num_fds(), len(ours)


def test_each_run_closes_what_it_opened(url: Url) -> None:
    oq = door(url)
    asyncio.run(visit(oq))
    before = open_now()
    for _ in range(RUNS):
        asyncio.run(visit(oq))
    assert open_now() == before
    assert before[2] == 0


@on_each_loop
def test_so_it_is_in_many_threads(url: Url, loop: str) -> None:
    oq = door(url)

    def run() -> None:
        run_on(loop, visit(oq))

    run()
    before = open_now()
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(run) for _ in range(FEW)]:
            done.result()
    assert open_now()[0] == before[0]
    assert open_now()[2] == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@on_each_loop
def test_a_loop_that_is_only_closed_loses_its_connections_to_the_next(url: Url, loop: str) -> None:
    oq = door(url)

    def look_and_close() -> None:
        made = LOOPS[loop]()
        made.run_until_complete(look(oq))
        made.close()

    for _ in range(FEW):
        look_and_close()
    few = open_now()
    for _ in range(FEW):
        look_and_close()
    many = open_now()
    asyncio.run(visit(oq))
    gc.collect()  # here, where its warnings are expected
    assert many[0] <= few[0]
    assert many[2] <= 3
    assert open_now()[2] == 0


def test_many_threads_with_blocking_calls_share_one_loop(url: Url) -> None:
    with OmniQ(config={"task_queue": {"url": url}, "result_store": {"url": url}}) as oq:

        def call() -> None:
            with pytest.raises(TaskNotFound):
                oq.get_task("nobody")

        call()
        before = open_now()
        with ThreadPoolExecutor(20) as threads:
            for done in [threads.submit(call) for _ in range(200)]:
                done.result()
        after = open_now()
    assert after[0] - before[0] <= 20  # as many as a pool has
    assert after[2] == before[2]


def test_objects_that_are_forgotten_unclosed_leave_nothing_behind(url: Url) -> None:
    before = open_now()
    for _ in range(FEW):
        asyncio.run(visit(door(url)))
    assert open_now()[0] == before[0]
    assert open_now()[2] == 0
