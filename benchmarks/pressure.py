"""The processes that `sustain.py` watches: `python -m pressure produce|work`.

On the store that BENCH_URL names; the worker counts in the file that BENCH_COUNTER names.
"""

from __future__ import annotations

import asyncio
import sys

from omniq.queue.options import TaskCall
from omniq.sync import new_event_loop
from ours import queue
from tasks import count_shared, counter

BACKLOG = 8_000
"""Tasks that may wait: enough for the worker never to be idle, and few enough for a full table not to be the story."""
BATCH = 2_000
PAUSE = 0.02
"""Seconds between two looks at a backlog that is full."""


async def produce() -> None:
    """Enqueue as fast as the worker works, until the process is ended."""
    sent = 0
    async with queue() as oq:
        while True:
            if sent - counter().value < BACKLOG:
                await oq.enqueue_many(TaskCall(func=count_shared) for _ in range(BATCH))
                sent += BATCH
            else:
                await asyncio.sleep(PAUSE)


async def work() -> None:
    """Work, with everything as it is by default, until the process is ended."""
    async with queue() as oq:
        await oq.start_worker("async")
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run({"produce": produce, "work": work}[sys.argv[1]]())
