"""What tasks cost on S3: `costs.py [--rounds 5] [--tasks 2000] [--singles 20] [--idle]`.

One worker in this process, and the tests' own S3 server, which counts the requests. Prints, beside the goals:

* rates: tasks that are enqueued in one call and run; with their results stored
* requests and dollars for 1,000 tasks, in batches and one by one, by what a provider bills: 5 $ for a million writes
  or listings, 0.40 $ for a million reads
* with `--idle`, requests of an idle worker: in the first 10 s, and in 30 s after a minute and a half
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # the server is that of the tests

from goals import at_least, at_most
from omniq import AsyncOmniQ
from omniq.queue.options import TaskCall
from omniq.sync import new_event_loop
from tasks import nothing

from tests.servers import exit_without_server
from tests.servers.objects import S3Server

DOLLARS = {"PUT": 5e-6, "LIST": 5e-6, "GET": 0.4e-6, "HEAD": 0.4e-6}
"""For each request; deleting is free."""
PAID = ("PUT", "LIST")
SETTLED = 1.5
"""Seconds by which the last ends of tasks are stored."""


class Meter:
    """Tells what a server was asked since the last reading."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._before = server.requests()

    def read(self) -> Counter[str]:
        now = self._server.requests()
        asked = now - self._before
        self._before = now
        return asked


def bill(label: str, asked: Counter[str], tasks: int) -> None:
    """Requests and dollars for 1,000 tasks."""
    of_thousand = {kind: 1000 * count / tasks for kind, count in sorted(asked.items())}
    dollars = sum(DOLLARS.get(kind, 0.0) * count for kind, count in of_thousand.items())
    requests = ", ".join(f"{count:.0f} {kind}" for kind, count in of_thousand.items())
    print(f"  1,000 tasks {label}: {requests}: {dollars:.5f} $", flush=True)


def paid(asked: Counter[str]) -> int:
    return sum(asked[kind] for kind in PAID)


async def one_round(server: S3Server, number: int, batch: int, singles: int) -> tuple[float, float, float, float]:
    """Enqueued and run in a second, and paid requests for each task in batches and one by one."""
    url = server.place.below(f"round-{number}").url_with_options
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq:
        meter = Meter(server)
        began = time.perf_counter()
        ids = await oq.enqueue_many(TaskCall(func=nothing) for _ in range(batch))
        enqueued = time.perf_counter()
        await oq.start_worker("async")
        await asyncio.gather(*map(oq.get_result, ids))
        ended = time.perf_counter()
        await asyncio.sleep(SETTLED)
        in_batches = meter.read()
        bill("in batches", in_batches, batch)
        for _ in range(singles):
            await oq.get_result(await oq.enqueue(nothing))
        await asyncio.sleep(SETTLED)
        one_by_one = meter.read()
        bill("one by one", one_by_one, singles)
    rates = batch / (enqueued - began), batch / (ended - enqueued)
    return *rates, paid(in_batches) / batch, paid(one_by_one) / singles


async def idle(server: S3Server) -> None:
    async with AsyncOmniQ(config={"task_queue": {"url": server.place.below("idle").url_with_options}}) as oq:
        await oq.start_worker("async")
        await oq.get_result(await oq.enqueue(nothing))
        await asyncio.sleep(SETTLED)
        meter = Meter(server)
        await asyncio.sleep(10.0)
        first = meter.read()
        await asyncio.sleep(80.0)
        meter.read()
        await asyncio.sleep(30.0)
        later = meter.read()
    print(at_most("idle: requests a second at first", first.total() / 10, 1.0))
    print(at_most("idle: requests in 10 s after a minute", later.total() / 3, 1.0))
    month = sum(DOLLARS.get(kind, 0.0) * count for kind, count in later.items()) * 86_400
    print(f"  an idle worker costs {month:.2f} $ in 30 days ({dict(later)} in 30 s)")


async def main(options: argparse.Namespace) -> None:
    server = S3Server()
    server.start()
    try:
        rounds = [await one_round(server, n, options.tasks, options.singles) for n in range(options.rounds)]
        enqueued, processed, batched, single = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"  enqueued in a second: {enqueued:,.0f}")
        print(at_least("processed in a second", processed, 200.0))
        print(at_most("paid requests for a task in batches", batched, 0.1))
        print(at_most("paid requests for a task one by one", single, 5.0))
        if options.idle:
            await idle(server)
    finally:
        server.remove()


if __name__ == "__main__":
    os.environ.setdefault("OMNIQ_SIGNING_KEY", "signed as what is on a network should be")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000, help="of a round, in batches")
    parser.add_argument("--singles", type=int, default=20, help="of a round, one by one")
    parser.add_argument("--idle", action="store_true")
    with exit_without_server(), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
