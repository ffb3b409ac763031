"""Many large payloads at once, on each store and each kind of event loop.

The sizes here are small; `python -m tests.reliability.large` has the full ones.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.batching import MAX_BYTES

from tests.core import payloads
from tests.core.support import SOON, working
from tests.loops import on_each_loop, run_on
from tests.mixes.support import Url, on_one_redis
from tests.reliability.large import many_large_calls, many_large_results

pytestmark = on_one_redis
each_store = pytest.mark.parametrize("name", ["sqlite", "postgres", "redis"])
SIZE = 2_500_000


@on_each_loop
@each_store
def test_large_calls_and_results_come_through_however_many_at_once(urls: dict[str, Url], name: str, loop: str) -> None:
    assert run_on(loop, many_large_calls(urls[name], calls=20, size=SIZE)) == [SIZE] * 20
    assert run_on(loop, many_large_results(urls[name], results=12, size=SIZE)) == [SIZE] * 12


@each_store
async def test_no_call_of_a_store_carries_more_bytes_than_it_may(
    urls: dict[str, Url], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    async with AsyncOmniQ(config={"task_queue": {"url": urls[name]}}) as oq:
        store = oq.task_queue.store

        def watched(verb: str, size: Any) -> None:
            call = getattr(store, verb)

            async def measured(*args: Any, **kwargs: Any) -> Any:
                answer = await call(*args, **kwargs)
                sizes.append(size(answer if verb == "claim" else args[0]))
                return answer

            monkeypatch.setattr(store, verb, measured)

        watched("add", lambda tasks: sum(len(task.body) for task in tasks))
        watched("claim", lambda records: sum(len(record.body) for record in records))
        watched("transition", lambda changes: sum(len(c.result.body) for c in changes if c.result))
        await echo_many(oq)
    assert SIZE < max(sizes) <= MAX_BYTES


async def echo_many(oq: AsyncOmniQ) -> None:
    ids = await asyncio.gather(*(oq.enqueue(payloads.echo_bytes, [bytes(SIZE)]) for _ in range(14)))
    async with working(oq, "async", max_workers=14):
        for id_ in ids:
            assert len(await oq.get_result(id_, timeout=2 * SOON)) == SIZE
