"""Random graphs of tasks while workers are killed, and children that are enqueued while their parents end:

`python -m tests.reliability.graphs --graphs 200 --races 1000 --server postgres`

What becomes of each task follows from its graph alone: which tasks fail, and what each does when a parent has failed.
So that is worked out first, and compared with what the store says once nothing changes any more.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

from msgspec import Struct
from omniq import AsyncOmniQ, call, result_of
from omniq.models.task import ParentFailure, Task, TaskState
from omniq.queue import TaskCall
from omniq.sync import new_event_loop

from tests.reliability import history
from tests.reliability.fleet import ERRORS, Fleet
from tests.reliability.history import History, Kind
from tests.reliability.servers import KINDS, running
from tests.reliability.work import nap, node
from tests.reliability.worker_main import WorkerOptions, front_door
from tests.servers import exit_without_server

PATIENCE: Final = 60.0
"""Seconds for which nothing may change until tasks count as stuck."""
PROMPT: Final = 5.0
"""Seconds within which a task is cancelled whose parent has failed."""
FAILED: Final = frozenset({TaskState.ERROR, TaskState.CANCELLED})
POLICIES: Final[tuple[ParentFailure, ...]] = ("cancel", "run", "hold")
WORKER: Final = {"lease": 2.0, "reap_interval": 0.2, "poll_interval": 0.2, "max_workers": 8, "max_crashes": 1000}


class Node(Struct, kw_only=True):
    """A task of a random graph, and what must become of it."""

    id: str
    parents: tuple[str, ...]
    fails: bool
    policy: ParentFailure
    seconds: float
    expected: TaskState = TaskState.SUCCESS

    def call(self) -> TaskCall:
        taken = {parent: result_of(parent, default=None) for parent in self.parents[::2]}
        args = [taken, self.fails, self.seconds]
        return call(node, args, task_id=self.id, depends_on=self.parents, on_parent_failure=self.policy, max_retries=0)


def random_graph(random: Random, name: str, size: int) -> list[Node]:
    """Tasks, parents first."""
    nodes: dict[str, Node] = {}
    for number in range(size):
        parents = random.sample(sorted(nodes), min(len(nodes), random.choice((0, 1, 1, 2, 2, 3, 8))))
        new = Node(
            id=f"{name}-{number:02d}",
            parents=tuple(parents),
            fails=random.random() < 0.05,
            policy=random.choice(POLICIES),
            seconds=random.uniform(0.0, 0.03),
        )
        new.expected = expected(new, [nodes[parent].expected for parent in parents])
        nodes[new.id] = new
    return list(nodes.values())


def expected(new: Node, parents: Sequence[TaskState]) -> TaskState:
    """What becomes of a task whose parents end like that; WAITING: it waits for ever."""
    if new.policy == "cancel" and not FAILED.isdisjoint(parents):
        return TaskState.CANCELLED
    if TaskState.WAITING in parents or (new.policy == "hold" and not FAILED.isdisjoint(parents)):
        return TaskState.WAITING
    return TaskState.ERROR if new.fails else TaskState.SUCCESS


# ── playing ─────────────────────────────────────────────────────────────────


async def play(oq: AsyncOmniQ, fleet: Fleet, nodes: Sequence[Node], log: Path, *, kill_every: float) -> list[str]:
    """Enqueue graphs, kill workers until all has ended that must; returns what is wrong then."""
    await oq.enqueue_many(each.call() for each in nodes)
    fleet.tend()
    killing = asyncio.create_task(_kill(fleet, log, kill_every)) if kill_every else None
    try:
        found = await _settled(oq, fleet, nodes)
    finally:
        if killing is not None:
            killing.cancel()
    return list(_wrong_states(nodes, found))


async def _kill(fleet: Fleet, log: Path, every: float) -> None:
    """Kill workers one by one, but never the last one that is at work."""
    while True:
        await asyncio.sleep(every)
        ready, _ = at_work(log)
        if len(ready) > 1:
            fleet.kill_one(ready)
            fleet.tend()


def at_work(log: Path) -> tuple[set[str], set[str]]:
    """The workers that live and are at work, and those that live."""
    names: defaultdict[Kind, set[str]] = defaultdict(set)
    for event in history.read(log):
        names[event.kind].add(event.worker)
    gone = names[Kind.KILL] | names[Kind.EXIT]
    return names[Kind.READY] - gone, names[Kind.SPAWN] - gone


async def _settled(oq: AsyncOmniQ, fleet: Fleet, nodes: Sequence[Node]) -> dict[str, Task]:
    """The tasks, once they are as expected, or nothing has changed for long."""
    changed_at, before = time.monotonic(), 0
    while True:
        fleet.tend()
        found = await _tasks(oq, nodes)
        ready = sum(found[each.id].state is each.expected for each in nodes)
        if ready != before:
            changed_at, before = time.monotonic(), ready
        if ready == len(nodes) or time.monotonic() - changed_at > PATIENCE:
            return found
        await asyncio.sleep(0.3)


async def _tasks(oq: AsyncOmniQ, nodes: Sequence[Node]) -> dict[str, Task]:
    found = await asyncio.gather(*(oq.get_task(each.id) for each in nodes))
    return {task.id: task for task in found}


def _wrong_states(nodes: Sequence[Node], found: dict[str, Task]) -> Iterator[str]:
    for each in nodes:
        task = found[each.id]
        if task.state is not each.expected:
            yield f"{each.id} is {task.state} and not {each.expected} ({each.policy}, after {', '.join(each.parents)})"
        if task.state is TaskState.CANCELLED and task.finished_at is not None:
            failed = [found[id_].finished_at for id_ in each.parents if found[id_].state in FAILED]
            late = min((task.finished_at - at).total_seconds() for at in failed if at is not None)
            if late > PROMPT:
                yield f"{each.id} was cancelled {late:.1f} s after its parent had failed"


def wrong_order(nodes: Sequence[Node], log: Path) -> Iterator[str]:
    """The starts before a parent's first end, and runs of tasks that mustn't run."""
    starts: defaultdict[str, list[float]] = defaultdict(list)
    ends: dict[str, float] = {}
    for event in history.read(log):
        if event.kind is Kind.START:
            starts[event.id].append(event.time)
        elif event.kind in (Kind.DONE, Kind.FAILED):
            ends[event.id] = min(event.time, ends.get(event.id, event.time))
    of = {each.id: each for each in nodes}
    for each in nodes:
        if starts[each.id] and each.expected in (TaskState.CANCELLED, TaskState.WAITING):
            yield f"{each.id} was started, though a parent failed"
        ran = [parent for parent in each.parents if of[parent].expected is not TaskState.CANCELLED]
        if any(min(starts[each.id], default=float("inf")) < ends.get(parent, float("inf")) for parent in ran):
            yield f"{each.id} was started before its parents had ended"


async def races(oq: AsyncOmniQ, count: int, random: Random) -> list[str]:
    """Enqueue children while their parents end; returns what is wrong with them then."""

    async def race() -> str:
        parent = await oq.enqueue(nap, [0.0])
        await asyncio.sleep(random.uniform(0.0, 0.02))
        return await oq.enqueue(nap, [0.0], depends_on=parent)

    children = [child for _ in range(0, count, 20) for child in await asyncio.gather(*(race() for _ in range(20)))]
    results = await asyncio.gather(*(oq.get_result(id_, timeout=PATIENCE) for id_ in children), return_exceptions=True)
    return [f"race: {result!r}" for result in results if isinstance(result, BaseException)]


async def _until_ready(log: Path) -> None:
    """Wait until those that live can be asked to stop."""
    while True:
        ready, living = at_work(log)
        if living <= ready:
            return
        await asyncio.sleep(0.3)


# ── the command ─────────────────────────────────────────────────────────────


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.graphs", description=__doc__)
    parser.add_argument("--graphs", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=20, help="graphs that are worked off at the same time")
    parser.add_argument("--races", type=int, default=0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds; 0: never")
    parser.add_argument("--seed", type=int, default=1)
    store = parser.add_mutually_exclusive_group()
    store.add_argument("--url", default="", help="of an empty task queue; SQLite in a new directory if not given")
    store.add_argument("--server", choices=KINDS, help="start a new one")
    return parser.parse_args()


@contextmanager
def store(options: argparse.Namespace, directory: Path) -> Iterator[str]:
    """The URL of the store."""
    if not options.server:
        yield options.url or f"sqlite:///{directory}/queue.db"
        return
    with exit_without_server(), running(options.server) as server:
        yield server.url


async def run(options: argparse.Namespace, url: str, directory: Path) -> list[str]:
    """All of it; returns what is wrong."""
    random, log = Random(options.seed), History(directory / "history.jsonl")
    worker = WorkerOptions(url=url, worker_type="async", worker_config=WORKER)
    fleet = Fleet(worker, size=options.workers, directory=directory, history=log, seed=options.seed)
    wrong: list[str] = []
    try:
        async with front_door(url) as oq:
            for first in range(0, options.graphs, options.at_once):
                names = [f"g{number:03d}" for number in range(first, min(first + options.at_once, options.graphs))]
                nodes = [each for name in names for each in random_graph(random, name, options.nodes)]
                began = time.monotonic()
                wrong += await play(oq, fleet, nodes, log.path, kill_every=options.kill_every)
                wrong += wrong_order(nodes, log.path)
                print(f"{names[0]} to {names[-1]}: {time.monotonic() - began:.1f} s, {len(wrong)} wrong", flush=True)
            fleet.tend()
            wrong += await races(oq, options.races, random)
            await _until_ready(log.path)
    finally:
        working = {event.worker for event in history.read(directory / "history.jsonl") if event.kind is Kind.START}
        wrong += await asyncio.to_thread(fleet.stop, 10.0, working)
        log.close()
    return [*wrong, *fleet.complaints(ERRORS)]


def main() -> int:
    """Play, and tell what is wrong; the exit code says whether anything is."""
    options, directory = arguments(), Path(tempfile.mkdtemp(prefix="omniq-graphs-"))
    with store(options, directory) as url, asyncio.Runner(loop_factory=new_event_loop) as runner:
        wrong = runner.run(run(options, url, directory))
    kills = sum(event.kind is Kind.KILL for event in history.read(directory / "history.jsonl"))
    print(f"{directory}: {options.graphs} graphs, {options.races} races, {kills} kills: {len(wrong)} wrong")
    print("".join(f"  {line}\n" for line in wrong[:20]), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
