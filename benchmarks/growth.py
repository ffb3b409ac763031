"""What grows with what, and mustn't: `growth.py STORE [SCENARIO …] [--scale 1.0]`.

Each scenario has a place of its own and prints its figures beside what they should not exceed.

* `roundtrip`: from `enqueue` to the value, one task at a time, client and worker in two processes
* `waiters`: what 5,000 coroutines cost that wait for results which don't come
* `lists`: the first page of each filtered list, and `stats`, beside 500,000 kept tasks
* `queues`: a claim with 1,000 declared queues of which 10 hold tasks, over one with those 10
* `herd`: what one task costs 16 idle workers, over what it costs one
* `upkeep`: how late a lapsed lease is reaped while 300,000 tasks are purged and 100,000 expire
* `leftovers`: how many files are left of 1,000,000 tasks that have ended and were purged, on files
* `schedules`: 1,000 schedules of one second on one worker: how many slots fire, and how late

`--scale` makes them smaller, for a first look; the goals are those of the full size.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import psutil

sys.path.append(str(Path(__file__).parents[1]))  # the servers, and the workers, are those of the tests

from goals import at_least, at_most
from omniq import AsyncOmniQ, clock
from omniq.models.task import TaskState, new_id
from omniq.storage.base import BaseTaskQueue
from omniq.storage.records import Change, NewTask, TaskFilter, TaskRecord
from omniq.sync import new_event_loop

from tests.core.tasks import nothing, nothing_async
from tests.idle.places import Place, place
from tests.idle.remote import RemoteWorker, remote_worker

RARE = "rare"
GRACE = 12.0
"""Seconds after which local files that aren't needed any more are deleted, and some more."""
ROUNDTRIP_MS = {"redis": 3.0, "postgres": 5.0, "sqlite": 12.0, "file": 12.0}

Scenario: TypeAlias = Callable[[Place, str, float], Coroutine[Any, Any, None]]


@asynccontextmanager
async def client(at: Place, **queue: Any) -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ(config={"task_queue": {"url": at.url, "config": queue}}) as oq:
        yield oq


def say(line: str) -> None:
    print(line, flush=True)


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


# ── waiting ──────────────────────────────────────────────────────────────────


async def roundtrip(at: Place, name: str, scale: float) -> None:
    took: list[float] = []
    async with client(at) as oq, remote_worker(at.url) as worker:
        for number in range(50 + int(2_000 * scale)):
            began = time.perf_counter()
            await oq.get_result(await oq.enqueue(nothing), timeout=30)
            if number >= 50:
                took.append((time.perf_counter() - began) * 1e3)
        assert worker.cpu_seconds > 0
    say(at_most("enqueue to value, p50 (ms)", statistics.median(took), ROUNDTRIP_MS[name]))
    say(at_most("enqueue to value, p99 (ms)", percentile(took, 99), 25.0))


async def waiters(at: Place, name: str, scale: float) -> None:
    seconds = 20.0
    async with client(at) as oq:
        ids = [await oq.enqueue(nothing, run_in=3600) for _ in range(max(1, int(5_000 * scale)))]
        waiting = [asyncio.create_task(oq.get_result(id_)) for id_ in ids]
        await asyncio.sleep(5.0)
        busy = _busy()
        await asyncio.sleep(seconds)
        say(at_most("waiters, % of a core", 100 * (_busy() - busy) / seconds, 3.0))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _busy() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


# ── tasks that are kept ──────────────────────────────────────────────────────


def _new(queue: str = "default", **fields: Any) -> NewTask:
    return NewTask(id=new_id(), queue_name=queue, body=b"x" * 120, **fields)


async def _fill(store: BaseTaskQueue, count: int, queue: str = "default", **fields: Any) -> None:
    for start in range(0, count, store.max_items):
        await store.add([_new(queue, **fields) for _ in range(min(store.max_items, count - start))])


async def _finish(store: BaseTaskQueue, queue: str = "default") -> None:
    """Let all that is due end."""
    while claimed := await store.claim([queue], limit=store.max_items, lease=600, worker="growth"):
        await store.transition([_success(record) for record in claimed])


def _success(record: TaskRecord) -> Change:
    return Change(task_id=record.id, to=TaskState.SUCCESS, from_states=(TaskState.RUNNING,), epoch=record.epoch)


async def lists(at: Place, name: str, scale: float) -> None:
    async with client(at, queues=[RARE]) as oq:
        store = oq.task_queue.store
        await _fill(store, int(500_000 * scale))
        await _finish(store)
        await _fill(store, 50, RARE)
        await _fill(store, 50)
        pages: dict[str, Callable[[], Awaitable[object]]] = {
            f"queue_name={RARE}": lambda: oq.list_tasks(queue_name=RARE),
            "state=pending": lambda: oq.list_tasks(state="pending"),
            "state=success": lambda: oq.list_tasks(state="success"),
            "state=running": lambda: oq.list_tasks(state="running"),
            f"state=success, queue_name={RARE}": lambda: oq.list_tasks(state="success", queue_name=RARE),
            "list_dead": oq.list_dead,
        }
        for label, ask in pages.items():
            say(at_most(f"list {label} (ms)", await _median_ms(ask), 20.0))
        say(at_most("stats (ms)", await _median_ms(oq.task_queue.stats), 50.0))


async def _median_ms(ask: Callable[[], Awaitable[object]]) -> float:
    took: list[float] = []
    for _ in range(10):
        began = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took[1:])


async def queues(at: Place, name: str, scale: float) -> None:
    names = [f"q{number:04}" for number in range(max(20, int(1_000 * scale)))]
    busy = names[:: len(names) // 10][:10]
    async with client(at, queues=names) as oq:
        store = oq.task_queue.store
        for queue in busy:
            await _fill(store, 4_000, queue)
        took: dict[str, list[float]] = {"all": [], "busy": []}
        for _ in range(200):
            for label, asked in (("all", names), ("busy", busy)):
                began = time.perf_counter()
                claimed = await store.claim(asked, limit=10, lease=600, worker="growth")
                took[label].append(time.perf_counter() - began)
                await store.transition([_success(record) for record in claimed])
    ratio = statistics.median(took["all"]) / statistics.median(took["busy"])
    say(at_most(f"claim with {len(names)} queues over 10", ratio, 1.5))


# ── workers ──────────────────────────────────────────────────────────────────


async def _cpu_per_task(at: Place, workers: int, tasks: int) -> float:
    """Milliseconds of processor time that all workers together take for one task at a time."""
    async with client(at) as oq, AsyncExitStack() as stack:
        fleet: list[RemoteWorker] = [await stack.enter_async_context(remote_worker(at.url)) for _ in range(workers)]
        await asyncio.sleep(3.0)
        resting = await _rate(fleet, 5.0)
        before, began = sum(worker.cpu_seconds for worker in fleet), time.monotonic()
        for _ in range(tasks):
            await oq.get_result(await oq.enqueue(nothing), timeout=30)
        spent = sum(worker.cpu_seconds for worker in fleet) - before
        return 1e3 * (spent - resting * (time.monotonic() - began)) / tasks


async def _rate(fleet: Sequence[RemoteWorker], seconds: float) -> float:
    before = sum(worker.cpu_seconds for worker in fleet)
    await asyncio.sleep(seconds)
    return (sum(worker.cpu_seconds for worker in fleet) - before) / seconds


async def herd(at: Place, name: str, scale: float) -> None:
    tasks = max(50, int(500 * scale))
    alone = await _cpu_per_task(at, 1, tasks)
    crowd = await _cpu_per_task(at, 16, tasks)
    say(f"  a task costs one worker {alone:.2f} ms, 16 idle ones {crowd:.2f} ms")
    say(at_most("16 idle workers over one", crowd / alone, 3.0))


async def upkeep(at: Place, name: str, scale: float) -> None:
    lease, reap_interval = 2.0, 0.5
    async with client(at) as oq:
        store = oq.task_queue.store
        await _fill(store, int(300_000 * scale))
        await _finish(store)
        await _fill(store, int(100_000 * scale), ttl=1.0)
        (victim,) = await _one_claimed(store, lease)
        began = time.monotonic()
        await oq.start_worker("async", lease=lease, reap_interval=reap_interval, queues=["default"])
        purging = asyncio.create_task(oq.task_queue.ttl.purge(retention=0.0))  # as upkeep does, but at once
        while await _is_running(store, victim.id):  # noqa: ASYNC110 (it ends in the store)
            await asyncio.sleep(0.02)
        late = time.monotonic() - began
        await purging
    say(at_most("a lapsed lease is taken back after (s)", late, 4 / 3 * lease + reap_interval))


async def leftovers(at: Place, name: str, scale: float) -> None:
    if name != "file":
        say("  only on files")
        return
    count, folder = int(1_000_000 * scale), Path(urlsplit(at.url).path)
    async with client(at) as oq:
        store = oq.task_queue.store
        await _fill(store, count)
        await _finish(store)
        say(f"  {count} tasks have ended: {_inodes(folder)} inodes")
        while await store.purge(older_than=-1.0, limit=store.max_items):
            pass
        say(f"  they were purged: {_inodes(folder)} inodes")
    say(f"  what had them open is closed: {_inodes(folder)} inodes")
    async with client(at) as oq:
        await oq.task_queue.store.connect()
        await asyncio.sleep(GRACE)
        await oq.task_queue.store.purge(older_than=0.0)
    say(at_most(f"inodes that {count} purged tasks leave", _inodes(folder), 600))


def _inodes(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


async def _is_running(store: BaseTaskQueue, task_id: str) -> bool:
    (record,) = await store.get([task_id])
    return record is not None and record.state is TaskState.RUNNING


async def _one_claimed(store: BaseTaskQueue, lease: float) -> list[TaskRecord]:
    await store.add([_new("victim")])
    return await store.claim(["victim"], limit=1, lease=lease, worker="dead")


async def schedules(at: Place, name: str, scale: float) -> None:
    count, seconds = max(10, int(1_000 * scale)), 20.0
    async with client(at) as oq:
        began = clock.now()
        for number in range(count):
            await oq.schedule(nothing_async, interval=1, schedule_id=f"s{number}")
        say(f"  declared in {clock.now() - began:.1f} s")
        await oq.start_worker("async")
        await asyncio.sleep(3.0)
        busy, began = _busy(), clock.now()
        await asyncio.sleep(seconds)
        say(f"  {100 * (_busy() - busy) / seconds:.0f} % of a core")
        await asyncio.sleep(1.0)
        late = [
            task.claimed_at - task.run_at
            async for task in all_tasks(oq.task_queue.store)
            if task.claimed_at and began <= task.run_at < began + seconds
        ]
    say(at_least("slots fired, %", 100 * len(late) / (count * seconds), 99.0))
    say(at_most("from slot to start, p99 (ms)", percentile(late, 99) * 1e3, 300.0))


async def all_tasks(store: BaseTaskQueue) -> AsyncIterator[TaskRecord]:
    cursor: str | None = None
    while True:
        page = await store.find(TaskFilter(), limit=1000, cursor=cursor)
        for task in page.tasks:
            yield task
        cursor = page.cursor
        if cursor is None:
            return


SCENARIOS: dict[str, Scenario] = {
    "roundtrip": roundtrip,
    "waiters": waiters,
    "lists": lists,
    "queues": queues,
    "herd": herd,
    "upkeep": upkeep,
    "leftovers": leftovers,
    "schedules": schedules,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=sorted(ROUNDTRIP_MS))
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # tasks that mean nothing fail by the thousands
    for scenario in options.scenarios or SCENARIOS:
        say(f"{options.store} {scenario}")
        with place(options.store) as at, asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(SCENARIOS[scenario](at, options.store, options.scale))


if __name__ == "__main__":
    main()
