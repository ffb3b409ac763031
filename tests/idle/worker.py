"""A worker in a process of its own: `python -m tests.idle.worker URL [POLL_INTERVAL [MAX_WORKERS]]`.

It prints a line of JSON for each task that starts, and one for each line of its input: how often it has asked its
store so far. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

from omniq import AsyncOmniQ, current_task
from omniq.sync import new_event_loop

from tests.idle.counting import count_calls


async def tell_start() -> None:
    """The task: says when it started, on the clock that all processes of a machine share."""
    tell(started=time.monotonic(), task_id=current_task().id)


async def hold() -> None:
    """A task that says when it started, and keeps its slot for longer than any test takes."""
    await tell_start()
    await asyncio.sleep(600.0)


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def main(url: str, poll_interval: str | None = None, max_workers: str | None = None) -> None:
    worker_config = {} if poll_interval is None else {"poll_interval": float(poll_interval)}
    options = {} if max_workers is None else {"max_workers": int(max_workers)}
    calls: Counter[str] = Counter()
    async with AsyncOmniQ(config={"task_queue": {"url": url}}, worker_config=worker_config) as oq:
        for store in (oq.task_queue.store, oq.result_store.store):
            count_calls(store, calls)
        await oq.start_worker("async", **options)
        tell(ready=True)
        while await asyncio.to_thread(sys.stdin.readline):
            tell(calls=calls)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
