"""A server that takes only short strings: it hangs up on longer ones, and nobody pays for them but their own task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from omniq import AsyncOmniQ
from omniq.errors import PayloadTooLarge, TaskFailed
from omniq.models import TaskState

from tests.core import payloads, tasks
from tests.core.support import SOON, results_of, working
from tests.loops import on_each_loop, run_on
from tests.servers.redis import PROGRAMS, RedisServer

MIB = 1024 * 1024


@pytest.fixture(params=list(PROGRAMS))
def narrow_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that takes strings of one mebibyte."""
    server = RedisServer(request.param, "--proto-max-bulk-len", "1mb")
    server.start()
    yield server
    server.remove()


def door(url: str) -> AsyncOmniQ:
    return AsyncOmniQ(config={"task_queue": {"url": url}})


@on_each_loop
def test_a_result_over_the_servers_limit_fails_its_own_task_at_once(narrow_server: RedisServer, loop: str) -> None:
    async def body() -> None:
        async with door(narrow_server.url) as oq, working(oq, "async", max_workers=4):
            large = await oq.enqueue(payloads.bytes_of_async, [3 * MIB])
            small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
            assert await results_of(oq, small) == [n + 1 for n in range(20)]
            with pytest.raises(TaskFailed, match=r"the result has 3,145,\d\d\d bytes; redis:.* allows 1,04\d,\d\d\d"):
                await oq.get_result(large, timeout=SOON)
            task = await oq.get_task(large)
            assert (task.state, task.attempts, task.epoch) == (TaskState.ERROR, 1, 1)

    run_on(loop, body())


@on_each_loop
def test_what_fits_one_by_one_is_never_sent_as_one_string_that_does_not(narrow_server: RedisServer, loop: str) -> None:
    async def body() -> None:
        async with door(narrow_server.url) as oq, working(oq, "async", max_workers=20):
            with pytest.raises(PayloadTooLarge, match=r"size_of has 3,145,\d\d\d bytes; redis:.* allows 1,048,576"):
                await oq.enqueue(payloads.size_of, [bytes(3 * MIB)])
            calls = (oq.enqueue(payloads.size_of, [bytes(300_000)]) for _ in range(20))
            assert await results_of(oq, await asyncio.gather(*calls)) == [300_000] * 20
            ids = [await oq.enqueue(payloads.bytes_of_async, [300_000]) for _ in range(20)]
            assert [len(value) for value in await results_of(oq, ids)] == [300_000] * 20
            assert {(await oq.get_task(id_)).epoch for id_ in ids} == {1}

    run_on(loop, body())


async def test_a_limit_that_was_lowered_meanwhile_is_noticed(redis_server: RedisServer) -> None:
    async with door(redis_server.url) as oq, working(oq, "async", max_workers=4):
        assert await oq.get_result(await oq.enqueue(payloads.bytes_of_async, [3 * MIB]), timeout=SOON)
        redis_server.ask("CONFIG SET", "proto-max-bulk-len", MIB)
        large = await oq.enqueue(payloads.bytes_of_async, [3 * MIB])
        small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
        assert await results_of(oq, small) == [n + 1 for n in range(20)]
        with pytest.raises(TaskFailed, match="allows 1,048,576") as failed:
            await oq.get_result(large, timeout=SOON)
        assert failed.value.error_type.endswith("PayloadTooLarge")


async def test_a_limit_that_the_server_does_not_tell_is_found_by_trying(narrow_server: RedisServer) -> None:
    narrow_server.ask("ACL SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all", "-config", "-echo")
    url = f"redis://worker:any@127.0.0.1:{narrow_server.port}"
    async with door(url) as oq, working(oq, "async", max_workers=4):
        large = await oq.enqueue(payloads.bytes_of_async, [3 * MIB])
        small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
        assert await results_of(oq, small) == [n + 1 for n in range(20)]
        with pytest.raises(TaskFailed, match=r"allows 1,0[34]\d,\d\d\d") as failed:
            await oq.get_result(large, timeout=SOON)
        assert failed.value.error_type.endswith("PayloadTooLarge")
