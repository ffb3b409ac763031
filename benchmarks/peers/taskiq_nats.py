"""taskiq on the server that BENCH_URL names, which stores no result: `python -m peers.taskiq_nats enqueue`.

`taskiq worker peers.taskiq_nats:broker` works.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import uvloop
from measure import TASKS, report
from taskiq_nats import PullBasedJetStreamBroker
from tasks import count_in_file

BATCH = 100

broker = PullBasedJetStreamBroker(
    os.environ["BENCH_URL"], stream_name="bench", subject="bench", durable="bench", pull_consume_batch=BATCH
)


@broker.task(task_name="count")  # type: ignore[untyped-decorator]
async def count() -> int:
    return count_in_file()


async def enqueue() -> None:
    await broker.startup()
    began = time.perf_counter()
    for start in range(0, TASKS, BATCH):
        await asyncio.gather(*[count.kiq() for _ in range(min(BATCH, TASKS - start))])
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run({"enqueue": enqueue}[sys.argv[1]]())
