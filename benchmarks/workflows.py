"""What it costs that tasks wait for each other: `workflows.py STORE [SCENARIO …] [--tasks 10000] [--rounds 3]`.

Each round has a place of its own, and runs as many tasks, from `enqueue` until the worker is done, on one async worker:

* `independent`: tasks that wait for nothing, which the next two are measured by
* `fan-in`: all parents of one task, which takes their results
* `fan-out`: all children of one task, which take its result
* `chain`: a tenth as many, each the child of the one before it
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # the servers are those of the tests

from goals import at_most
from omniq import AsyncOmniQ, call, chain, group, result_of
from omniq.models import TaskState
from omniq.queue.workflows import Step
from omniq.sync import new_event_loop
from tasks import count_values as count

from tests.idle.places import place
from tests.servers import exit_without_server

GOAL = 3.0
"""By how much longer tasks may take that wait for each other."""


def independent(tasks: int) -> Step:
    return group(call(count) for _ in range(tasks))


def fan_in(tasks: int) -> Step:
    parents = group(call(count) for _ in range(tasks))
    return parents.then(call(count, result_of(parents)))


def fan_out(tasks: int) -> Step:
    parent = call(count)
    return chain(parent, group(call(count, [result_of(parent)]) for _ in range(tasks)))


def one_by_one(tasks: int) -> Step:
    return chain(*(call(count) for _ in range(max(1, tasks // 10))))


SCENARIOS = {"independent": independent, "fan-in": fan_in, "fan-out": fan_out, "chain": one_by_one}


async def seconds(url: str, step: Step) -> tuple[float, float, float]:
    """How long it took to enqueue them and, from then on, to run them; and the CPU seconds of both."""
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq:
        busy, began = time.process_time(), time.perf_counter()
        flow = await oq.enqueue_workflow(step)
        enqueued = time.perf_counter()
        async with oq.worker_pool("async") as worker:
            await oq.get_result(flow.ids[-1], timeout=600)
            await worker.drain()
        took = enqueued - began, time.perf_counter() - enqueued, time.process_time() - busy
        assert await flow.status() == {TaskState.SUCCESS: len(flow.ids)}
        return took


def measure(store: str, scenario: str, tasks: int) -> float:
    with exit_without_server(), place(store) as at, asyncio.Runner(loop_factory=new_event_loop) as runner:
        enqueue, work, cpu = runner.run(seconds(at.url, SCENARIOS[scenario](tasks)))
    print(f"{scenario:<12} {enqueue:6.2f} s to enqueue, {work:6.2f} s to run, {cpu:6.2f} s of CPU", flush=True)
    return enqueue + work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], default=[])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    names = dict.fromkeys(["independent", *(options.scenarios or SCENARIOS)])
    took: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            took[name].append(measure(options.store, name, options.tasks))
    base = statistics.median(took.pop("independent"))
    if chain_took := took.pop("chain", []):
        print(f"  chain, ms a link {1e4 * statistics.median(chain_took) / options.tasks:>50.2f}")
    for name, times in took.items():
        print(at_most(f"{name}, times independent", statistics.median(times) / base, GOAL))


if __name__ == "__main__":
    main()
