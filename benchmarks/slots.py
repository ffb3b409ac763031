"""Many tasks at once, on each kind of worker: `slots.py [STORE] [SCENARIO …]`; STORE is sqlite (default) or redis.

* `greenlets`: 1,000 tasks of `time.sleep(0.1)` on a gevent worker with 1,000 greenlets
* `coroutines`: 10,000 tasks of `asyncio.sleep(1)` on an async worker with a concurrency of 10,000
* `processes`: 64 tasks that compute, on a process worker with one child and with two
* `beside`: 60 short tasks and one of 8 s on a process worker with two children: when the last short one has ended

The worker is in this process, and ready before the first task is enqueued; enqueueing is measured along.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # the servers are those of the tests

from goals import at_least, at_most
from omniq import AsyncOmniQ
from omniq.queue.options import TaskCall
from omniq.sync import new_event_loop
from omniq.workers import AsyncWorkerPool
from tasks import compute, nap, nap_async

from tests.idle.places import Place, place


@asynccontextmanager
async def worker(at: Place, kind: str, count: int) -> AsyncIterator[tuple[AsyncOmniQ, AsyncWorkerPool]]:
    """A worker whose slots have begun to work, and an empty queue."""
    async with (
        AsyncOmniQ(config={"task_queue": {"url": at.url}}) as oq,
        oq.worker_pool(kind, max_workers=count) as pool,
    ):
        await asyncio.gather(*[oq.get_result(await oq.enqueue(nap, [0.05])) for _ in range(min(4, count))])
        await pool.drain()
        yield oq, pool


async def seconds(oq: AsyncOmniQ, pool: AsyncWorkerPool, func: Callable[..., Any], *args: Any, count: int) -> float:
    """How long so many of these tasks take."""
    began = time.perf_counter()
    await oq.enqueue_many(TaskCall(func=func, func_args=args) for _ in range(count))
    await pool.drain()
    return time.perf_counter() - began


async def greenlets(at: Place) -> str:
    async with worker(at, "gevent", 1000) as (oq, pool):
        took = await seconds(oq, pool, nap, 0.1, count=1000)
    return at_most("1,000 of time.sleep(0.1) on greenlets, over one", took / 0.1, 15)


async def coroutines(at: Place) -> str:
    async with worker(at, "async", 10_000) as (oq, pool):
        took = await seconds(oq, pool, nap_async, 1.0, count=10_000)
    return at_most("10,000 of asyncio.sleep(1) on the loop, s", took, 4)


async def processes(at: Place) -> str:
    took = []
    for children in (1, 2):
        async with worker(at, "process", children) as (oq, pool):
            took.append(await seconds(oq, pool, compute, 0.1, count=64))
    return at_least(f"64 tasks that compute: {took[0]:.1f} s on one child, ÷ on two", took[0] / took[1], 1.7)


async def beside(at: Place) -> str:
    async with worker(at, "process", 2) as (oq, pool):
        await seconds(oq, pool, nap, 0.0, count=200)  # so that they are known to be short
        began = time.perf_counter()
        await oq.enqueue(nap, [8.0])
        short = await oq.enqueue_many(TaskCall(func=nap, func_args=[0.0]) for _ in range(60))
        await asyncio.gather(*map(oq.get_result, short))
        took = time.perf_counter() - began
    return at_most("60 short tasks beside one of 8 s, s", took, 1)


SCENARIOS: dict[str, Callable[[Place], Coroutine[Any, Any, str]]] = {
    "greenlets": greenlets,
    "coroutines": coroutines,
    "processes": processes,
    "beside": beside,
}


def run(store: str, names: Sequence[str]) -> None:
    print(f"{store}:", flush=True)
    for name in names:
        with place(store) as at, asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(runner.run(SCENARIOS[name](at)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("scenario", nargs="*", help=", ".join(SCENARIOS))
    arguments = parser.parse_args()
    if unknown := set(arguments.scenario) - SCENARIOS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    run(arguments.store, arguments.scenario or list(SCENARIOS))


if __name__ == "__main__":
    main()
