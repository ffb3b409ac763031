"""Races of cancels and TTLs against claims: `uv run python -m tests.reliability.races --store sqlite --count 1000`.

Each task is due at about the time at which it is cancelled, or at which its TTL ends, while two workers claim. However
that goes, each has one end, which its result agrees with, and what was cancelled or has expired in the queue, or
before its claim, is never started.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from omniq import AsyncOmniQ, current_task
from omniq.models import TaskState
from omniq.queue.options import TaskCall
from omniq.storage.records import TaskRecord

from tests.reliability.servers import KINDS, running

AT_ONCE: Final = 50
"""Races that are run side by side."""
SPREAD: Final = 0.1
"""Seconds within which a race begins."""
PATIENCE: Final = 120.0
STORES: Final = ("memory", "sqlite", "files", *KINDS)
WORKER: Final = {"max_workers": 10, "reap_interval": 0.01, "poll_interval": 0.01, "lease": 60.0}

started: list[tuple[str, int]] = []
"""Ids and epochs of the tasks that were started in this process."""


async def start() -> None:
    """Note that it was started."""
    started.append((current_task().id, current_task().epoch))


Race: TypeAlias = Callable[[AsyncOmniQ, int, random.Random], Awaitable[list[str]]]


async def cancels(oq: AsyncOmniQ, count: int, chance: random.Random) -> list[str]:
    """Cancel each task when it is about to be claimed."""

    async def one(delay: float, pause: float) -> str:
        task_id = await oq.enqueue(start, run_in=delay)
        await asyncio.sleep(pause)
        await oq.cancel(task_id)
        return task_id

    delays = [chance.uniform(0, SPREAD) for _ in range(count)]
    return list(await asyncio.gather(*(one(delay, chance.uniform(0, delay)) for delay in delays)))


async def expiries(oq: AsyncOmniQ, count: int, chance: random.Random) -> list[str]:
    """Let the TTL of each task end when it is about to be claimed."""
    calls = [
        TaskCall(func=start, options={"run_in": chance.uniform(0, SPREAD), "ttl": chance.uniform(0.0, 0.05)})
        for _ in range(count)
    ]
    ids = list[str](await oq.enqueue_many(calls))
    await asyncio.sleep(SPREAD)
    return ids


RACES: Final[dict[str, Race]] = {"cancels": cancels, "expiries": expiries}


async def run(oq: AsyncOmniQ, race: Race, count: int, seed: int) -> tuple[list[str], Counter[TaskState]]:
    """What went wrong in so many races, and how the tasks ended. `oq` has no worker yet."""
    chance, ids = random.Random(seed), list[str]()
    async with oq.worker_pool("async", **WORKER), oq.worker_pool("async", **WORKER):
        while len(ids) < count:
            ids += await race(oq, min(AT_ONCE, count - len(ids)), chance)
        records = await until_ended(oq, ids)
    faults = [fault for record in records for fault in await judged(oq, record)]
    return faults, Counter(record.state for record in records)


async def until_ended(oq: AsyncOmniQ, ids: Sequence[str]) -> list[TaskRecord]:
    """The tasks, once all have ended."""
    deadline, store = time.monotonic() + PATIENCE, oq.task_queue.store
    while True:
        found = [record for at in range(0, len(ids), 500) for record in await store.get(ids[at : at + 500])]
        records = [record for record in found if record is not None]
        if all(record.state.is_terminal for record in records) or time.monotonic() > deadline:
            return records
        await asyncio.sleep(0.02)


async def judged(oq: AsyncOmniQ, record: TaskRecord) -> list[str]:
    """What is wrong with a task's end."""
    epochs = [epoch for id_, epoch in started if id_ == record.id]
    result = await oq.result_store.get(record.id)
    claimed = record.epoch > 0
    in_time = record.expires_at is None or record.claimed_at is None or record.claimed_at < record.expires_at
    wrong = {
        "it hasn't ended": not record.state.is_terminal,
        "its result doesn't tell its end": result is None or result.status.value != record.state.value,
        "it was started more than once": len(epochs) > 1,
        "it was started though it was never claimed": bool(epochs) and not claimed,
        "it was started though it has expired": bool(epochs) and record.state is TaskState.EXPIRED,
        "it was started though its TTL was over": bool(epochs) and not in_time,
        "it succeeded without being started": not epochs and record.state is TaskState.SUCCESS,
    }
    return [
        f"task {record.id} ({record.state}, epoch {record.epoch}): {fault}" for fault, is_so in wrong.items() if is_so
    ]


@contextmanager
def place(store: str) -> Iterator[str]:
    """The URL of a new place of this store."""
    with tempfile.TemporaryDirectory(prefix="omniq-races-") as folder:
        urls = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/omniq.db", "files": f"file://{folder}/queue"}
        if store in urls:
            yield urls[store]
        else:
            with running(store) as server:
                yield server.url


async def main(store: str, count: int, seed: int) -> int:
    """Run all races at a new place; returns the exit code."""
    failed = 0
    with place(store) as url:
        for name, race in RACES.items():
            async with AsyncOmniQ(
                config={"project_name": name, "task_queue": url, "defaults": {"max_retries": 0}}
            ) as oq:
                began = time.monotonic()
                faults, ends = await run(oq, race, count, seed)
            told = ", ".join(f"{number} {state}" for state, number in sorted(ends.items()))
            print(
                f"{store}: {count} {name} in {time.monotonic() - began:.1f} s: {told}; {len(faults)} faults", flush=True
            )
            print(*faults[:20], sep="\n", end="\n" if faults else "")
            failed += len(faults)
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    # By its importable name: workers find the task's function, and its notes, there.
    from tests.reliability import races

    sys.exit(asyncio.run(races.main(given.store, given.count, given.seed)))
