"""Workflows are the same on every store, and where tasks and results are in different ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from omniq import AsyncOmniQ, call, chain, group, result_of
from omniq.errors import TaskFailed
from omniq.models import TaskState

from tests.core import tasks
from tests.core.support import SOON, working
from tests.mixes.support import Url, on_one_redis

pytestmark = on_one_redis


async def check(oq: AsyncOmniQ) -> None:
    """Fan out, fan in, take results and defaults, fail, and find it all again."""
    first = call(tasks.add, [1, 1])
    middle = group(call(tasks.add, [result_of(first), n]) for n in range(5))
    bad = call(tasks.fail, max_retries=0)
    last = call(tasks.echo, [{"all": result_of(middle), "bad": result_of(bad, default=None)}], on_parent_failure="run")
    strict = call(tasks.echo, [result_of(bad)], on_parent_failure="run")
    flow = await oq.enqueue_workflow(group(chain(first, middle, last), bad, strict))
    async with working(oq, "async"):
        results = await flow.results(timeout=SOON)
        assert results[last.reserve_id()].value == {"all": [2, 3, 4, 5, 6], "bad": None}
        with pytest.raises(TaskFailed, match=r"errors\.TaskFailed: task .* failed: ValueError: no luck"):
            results[strict.reserve_id()].unwrap()
        races = [await race(oq, n) for n in range(12)]
        assert [await oq.get_result(child, timeout=SOON) for child in races] == [n + 1 for n in range(12)]
    graph = await (await oq.get_workflow(bad.reserve_id())).graph()
    assert (graph.complete, set(graph.nodes)) == (True, set(flow.ids))
    assert graph.nodes[last.reserve_id()].state is TaskState.SUCCESS


async def race(oq: AsyncOmniQ, n: int) -> str:
    """A child that is enqueued while its parent ends."""
    parent = await oq.enqueue(tasks.add_async, [n, 0])
    await asyncio.sleep(0.001 * (n % 6))
    return await oq.enqueue(tasks.add_async, [result_of(parent), 1])


async def test_in_every_mix_of_stores(oq: AsyncOmniQ) -> None:
    await check(oq)


@pytest.mark.parametrize("name", ["file", "memory"])
async def test_in_files_and_in_memory(urls: dict[str, Url], name: str) -> None:
    config: dict[str, Any] = {"task_queue": {"url": urls[name]}, "defaults": {"max_retries": 0}}
    async with AsyncOmniQ(config=config) as oq:
        await check(oq)
