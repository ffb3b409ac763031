"""ardiq on the server that BENCH_URL names: `python -m peers.ardiq_redis enqueue|work`.

Its client is written in Rust, so there is no hiredis for it to use.
"""

from __future__ import annotations

import os
import sys
import time

import uvloop
from ardiq import Ardiq
from measure import TASKS, batches, report, tick

SLOTS = 100

app = Ardiq(redis_url=os.environ["BENCH_URL"], concurrency=SLOTS)


@app.task()  # type: ignore[untyped-decorator]
async def count() -> int:
    tick()
    return 1


async def enqueue() -> None:
    began = time.perf_counter()
    for size in batches():
        await app.enqueue_many([count.prepare() for _ in range(size)])
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))


async def work() -> None:
    await app.run()


if __name__ == "__main__":
    uvloop.run({"enqueue": enqueue, "work": work}[sys.argv[1]]())
