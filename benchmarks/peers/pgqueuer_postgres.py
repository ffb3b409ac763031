"""pgqueuer in the database that BENCH_URL names: `python -m peers.pgqueuer_postgres enqueue|work`."""

from __future__ import annotations

import logging
import os
import sys
import time

import asyncpg
import uvloop
from measure import TASKS, batches, report, tick
from pgqueuer import AsyncpgPoolDriver, Queries, QueueManager

CLAIMED_AT_ONCE = 100


async def enqueue(queries: Queries) -> None:
    await queries.install()
    began = time.perf_counter()
    for size in batches():
        await queries.enqueue(["count"] * size, [None] * size, [0] * size)
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))


async def work(queries: Queries) -> None:
    manager = QueueManager(queries)

    @manager.entrypoint("count")  # type: ignore[untyped-decorator]
    async def count(_job: object) -> None:
        tick()

    await manager.run(batch_size=CLAIMED_AT_ONCE)


async def main(what: str) -> None:
    pool = await asyncpg.create_pool(os.environ["BENCH_URL"], min_size=4, max_size=20)
    await {"enqueue": enqueue, "work": work}[what](Queries(AsyncpgPoolDriver(pool)))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    uvloop.run(main(sys.argv[1]))
