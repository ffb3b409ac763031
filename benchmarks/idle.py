"""What an idle worker costs its store, and how soon it wakes: `idle.py sqlite|postgres|redis|nats`.

One worker at default settings in a process of its own; tasks are added by this one. Prints each figure beside what it
must not exceed.

* `calls`: how often a second the worker calls a verb of its store, and how often the server is asked anything;
  and what waiting costs the worker's processor
* `wake`: from the return of `enqueue` to the start of the task
* `cut`: the same, right after the server has killed the connection on which the worker is pushed; and how long it
  takes until it is pushed again
* `down`: the same, after the server was killed and came back three seconds later, counted from its return
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # the servers, and the worker, are those of the tests

from omniq import AsyncOmniQ
from omniq.sync import new_event_loop

from tests.idle.places import NATSPlace, Place, PostgresPlace, RedisPlace, place, until_listening
from tests.idle.remote import RemoteWorker, remote_worker
from tests.idle.worker import tell_start
from tests.servers import exit_without_server

WARM_UP = 5.0
IDLE = 20.0
"""Seconds for which calls are counted."""
WAKES = 200
CUTS = 5
DOWN = 3.0

CALLS_LIMIT = 2.0
WAKE_LIMIT = 0.05
CUT_LIMIT = 1.1
AGAIN_LIMIT = 2.0


def say(name: str, figure: float, limit: float | None = None, unit: str = "") -> None:
    bound = "" if limit is None else f"  (at most {limit:g}{unit}{'' if figure <= limit else ': EXCEEDED'})"
    print(f"  {name:44}{figure:8.3f}{unit}{bound}", flush=True)


async def count_calls(at: Place, worker: RemoteWorker) -> None:
    await asyncio.sleep(WARM_UP)
    calls, asked = await worker.calls(), await at.asked()
    busy = worker.cpu_seconds
    await asyncio.sleep(IDLE)
    busy = worker.cpu_seconds - busy
    calls, asked = await worker.calls() - calls, await at.asked() - asked
    say("calls a second", calls.total() / IDLE, CALLS_LIMIT)
    if not at.url.startswith("sqlite"):
        say("  as its server counts", asked / IDLE)
    say("of a processor", 100 * busy / IDLE, unit=" %")


async def wake(oq: AsyncOmniQ, worker: RemoteWorker) -> float:
    """Seconds from the return of `enqueue` to the start of the task."""
    added = await oq.enqueue(tell_start)
    returned = time.monotonic()
    task_id, started = await worker.next_start()
    assert task_id == added
    return max(0.0, started - returned)


async def measure_wakes(oq: AsyncOmniQ, worker: RemoteWorker) -> None:
    took = []
    for _ in range(WAKES):
        await asyncio.sleep(random.uniform(0.02, 0.15))
        took.append(await wake(oq, worker))
    say("wake, median", 1e3 * statistics.median(took), unit=" ms")
    say("wake, p99", 1e3 * statistics.quantiles(took, n=100)[98], 1e3 * WAKE_LIMIT, " ms")


async def until_pushed(at: Place, since: float) -> float:
    """Seconds until the worker listens again."""
    await until_listening(at)
    return time.monotonic() - since


async def measure_cuts(at: Place, oq: AsyncOmniQ, worker: RemoteWorker) -> None:
    wakes, pauses = [], []
    for _ in range(CUTS):
        await asyncio.sleep(random.uniform(0.5, 1.5))
        await at.kill_listeners()
        pause = asyncio.create_task(until_pushed(at, time.monotonic()))
        wakes.append(await wake(oq, worker))
        pauses.append(await pause)
        await asyncio.sleep(0.5)
        wakes.append(await wake(oq, worker))
    say(f"cut {CUTS} times: wake at once, longest", max(wakes[::2]), CUT_LIMIT, " s")
    say("  pushed again, longest", max(pauses), AGAIN_LIMIT, " s")
    say("  wake then, longest", 1e3 * max(wakes[1::2]), unit=" ms")


async def measure_downtime(at: NATSPlace | PostgresPlace | RedisPlace, oq: AsyncOmniQ, worker: RemoteWorker) -> None:
    await asyncio.sleep(0.5)  # the last task's end is stored by then
    await asyncio.to_thread(at.server.kill)
    await asyncio.sleep(DOWN)
    await asyncio.to_thread(at.server.start)
    pause = asyncio.create_task(until_pushed(at, time.monotonic()))
    say(f"down for {DOWN:g} s: wake at its return", await wake(oq, worker), CUT_LIMIT, " s")
    say("  pushed again", await pause, AGAIN_LIMIT, " s")


async def main(name: str) -> None:
    print(name)
    with place(name) as at:
        async with AsyncOmniQ(config={"task_queue": {"url": at.url}}) as oq, remote_worker(at.url) as worker:
            await count_calls(at, worker)
            await measure_wakes(oq, worker)
            if isinstance(at, PostgresPlace | RedisPlace):
                await measure_cuts(at, oq, worker)
            if isinstance(at, NATSPlace | PostgresPlace | RedisPlace):
                await measure_downtime(at, oq, worker)


def chosen() -> Iterator[str]:
    yield from sys.argv[1:] or ("sqlite", "postgres", "redis")


if __name__ == "__main__":
    for store in chosen():
        with exit_without_server(), asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main(store))
