"""awa in the database that BENCH_URL names: `python -m peers.awa_postgres enqueue|work`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass

import awa
import uvloop
from measure import TASKS, batches, report, tick

CONNECTIONS = 20
SLOTS = 100
POLL_INTERVAL_MS = 20


@dataclass
class Count:
    """The arguments of a job; awa knows jobs by the class of these."""

    x: int = 1


async def enqueue(client: awa.AsyncClient) -> None:
    await client.migrate()
    await client.install_queue_storage(reset=True)
    began = time.perf_counter()
    for size in batches():
        await client.enqueue_many_copy([Count() for _ in range(size)])
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))


async def work(client: awa.AsyncClient) -> None:
    @client.task(Count)  # type: ignore[untyped-decorator]
    async def count(_job: object) -> None:
        tick()

    await client.start([("default", SLOTS)], poll_interval_ms=POLL_INTERVAL_MS)
    await asyncio.Event().wait()


async def main(what: str) -> None:
    client = awa.AsyncClient(os.environ["BENCH_URL"], max_connections=CONNECTIONS)
    await {"enqueue": enqueue, "work": work}[what](client)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
