"""How long one claim takes when few tasks are due, when very many are, and when very many are delayed.

    python benchmarks/claims.py STORE [--rounds 5] [--calls 3000] [--limit 10] [--many 200000]

Three parts of one place stand side by side: `few` holds 1,000 due tasks, `many` holds 200,000, and `delayed` holds
1,000 and 200,000 more that are due in an hour or later. In each turn all three, in random order, claim `--limit` tasks
in one call, which is timed; then those tasks succeed with a result and as many new ones come, so that as many are due
at the next turn. Each round begins with new places. After they are filled, PostgreSQL vacuums and analyzes them and
takes a checkpoint, as it would by itself a minute later, and Redis rewrites its append-only file; from then on
autovacuum and the like do what they do, whenever they do it. The first turns aren't counted. Since nobody waits for
these tasks, PostgreSQL doesn't notify anybody.

The goal is on the median over the rounds of `p99 of many (or delayed) / p99 of few`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

from goals import at_most
from omniq.models.task import TaskState, new_id
from omniq.storage.base import BaseTaskQueue
from omniq.storage.records import Change, NewTask, ResultRecord, TaskRecord
from omniq.sync import new_event_loop
from ours import queue
from stores import NAMES, load
from stores.base import Store
from versions import versions

from tests.servers import exit_without_server

FEW = 1_000
FILLED_AT_ONCE = 1_000
UNCOUNTED = 100
"""Turns that open connections and prepare statements."""
LATER = 3600.0
"""Seconds after which the first delayed task is due; the others follow by hundredths."""
LEASE = 30.0
GOAL = 2.0
GOALS = {"file": 3.0}
"""Where it is another one."""
FEW_DUE, MANY_DUE, DELAYED = "few", "many", "delayed"


@dataclass
class Crowd:
    """A population of tasks that keeps its size, and how long claims from it took."""

    queue: BaseTaskQueue
    took: list[float] = field(default_factory=list)
    """Milliseconds."""

    async def fill(self, due: int, delayed: int) -> None:
        delays = [0.0] * due + [LATER + number / 100 for number in range(delayed)]
        for start in range(0, len(delays), FILLED_AT_ONCE):
            await self.queue.add([new_task(delay) for delay in delays[start : start + FILLED_AT_ONCE]])

    async def turn(self, limit: int) -> None:
        """Claim, and then end what was claimed and add as much."""
        began = time.perf_counter()
        claimed = await self.queue.claim(["default"], limit=limit, lease=LEASE, worker="bench")
        self.took.append((time.perf_counter() - began) * 1e3)
        if len(claimed) != limit:
            raise RuntimeError(f"{len(claimed)} of {limit} tasks were claimed though there are more")
        await self.queue.transition([success(task) for task in claimed])
        await self.queue.add([new_task() for _ in claimed])


@dataclass(frozen=True)
class Spread:
    """The 50th and the 99th percentile, in milliseconds."""

    p50: float
    p99: float

    def __str__(self) -> str:
        return f"p50 {self.p50:>7.3f} ms   p99 {self.p99:>7.3f} ms"


def new_task(delay: float = 0.0) -> NewTask:
    return NewTask(id=new_id(), queue_name="default", body=b"x" * 120, delay=delay)


def success(task: TaskRecord) -> Change:
    """What a worker writes of a task that has succeeded."""
    result = ResultRecord(task_id=task.id, epoch=task.epoch, status=TaskState.SUCCESS, body=b"y" * 60, ttl=86_400.0)
    return Change(
        task_id=task.id, to=TaskState.SUCCESS, from_states=(TaskState.RUNNING,), epoch=task.epoch, result=result
    )


def spread(times: Sequence[float]) -> Spread:
    return Spread(statistics.median(times), statistics.quantiles(times, n=100)[98])


async def play(store: Store, url: str, options: argparse.Namespace, random: Random) -> dict[str, Spread]:
    """One round: fill three parts of an empty place, and claim from them in turns."""
    sizes = {FEW_DUE: (FEW, 0), MANY_DUE: (options.many, 0), DELAYED: (FEW, options.many)}
    async with AsyncExitStack() as stack:
        crowds: dict[str, Crowd] = {}
        for name, (due, delayed) in sizes.items():
            oq = await stack.enter_async_context(queue(store.corner(url, name)))
            crowds[name] = Crowd(oq.task_queue.store)
            await crowds[name].fill(due, delayed)
        await asyncio.to_thread(store.tidy, url)
        order = list(crowds.values())
        for _ in range(UNCOUNTED + options.calls):
            random.shuffle(order)
            for crowd in order:
                await crowd.turn(options.limit)
    return {name: spread(crowd.took[UNCOUNTED:]) for name, crowd in crowds.items()}


def conclude(rows: Sequence[dict[str, Spread]], goal: float) -> None:
    """Print the medians, and whether the goal is kept."""
    print(f"\nmedians of {len(rows)} rounds")
    for name in rows[0]:
        p50 = statistics.median(row[name].p50 for row in rows)
        p99 = statistics.median(row[name].p99 for row in rows)
        print(f"  {name:<8} {Spread(p50, p99)}")
    print()
    for name in (MANY_DUE, DELAYED):
        ratio = statistics.median(row[name].p99 / row[FEW_DUE].p99 for row in rows)
        print(at_most(f"p99 of {name} / p99 of {FEW_DUE}", ratio, goal))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3_000, help="claims from each population in each round")
    parser.add_argument("--limit", type=int, default=10, help="tasks that one call claims")
    parser.add_argument("--many", type=int, default=200_000, help="tasks that are due, or delayed")
    options = parser.parse_args()
    store = load(options.store)
    print(f"{store.describe()}\n  {versions(store.packages)}")
    rows = []
    for number in range(options.rounds):
        with store.place() as place, asyncio.Runner(loop_factory=new_event_loop) as runner:
            rows.append(runner.run(play(store, place["BENCH_URL"], options, Random(number))))
        for name, found in rows[-1].items():
            print(f"round {number + 1}  {name:<8} {found}", flush=True)
    conclude(rows, GOALS.get(options.store, GOAL))


if __name__ == "__main__":
    with exit_without_server():
        main()
