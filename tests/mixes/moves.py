"""Places between which everything moves, what is there, and migrations that are stopped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from omniq import AsyncMigration, AsyncOmniQ
from omniq.models.task import new_id
from omniq.queue.moving import MigrationReport
from omniq.storage.records import TaskFilter, TaskRecord

from tests.core.tasks import add, fail, note
from tests.mixes.support import Url

LATER = dt.timedelta(hours=3)
QUEUES = ["high", "default", "low"]


def at(url: Url, **fields: Any) -> AsyncOmniQ:
    return AsyncOmniQ(config={"task_queue": {"url": url, "config": {"queues": QUEUES}}, **fields})


async def moved(source: Url, target: Url, **options: Any) -> MigrationReport:
    async with at(source) as old, at(target) as new:
        return await AsyncMigration(old, new).run(**options)


# ── what is there ────────────────────────────────────────────────────────────


async def pages(oq: AsyncOmniQ) -> list[TaskRecord]:
    """All tasks, with their bodies."""
    store, found, cursor = await oq.task_queue.ready(), list[TaskRecord](), None
    while True:
        page = await store.find(TaskFilter(), limit=500, cursor=cursor, bodies=True)
        found += page.tasks
        cursor = page.cursor
        if cursor is None:
            return found


def told(record: TaskRecord) -> dict[str, Any]:
    """What must be kept of a task; times cross clocks and SQL types, so they are kept to the millisecond."""
    kept = asdict(record)
    for name in ("claimed_at", "worker", "lease_until"):  # what concerns a claim at the store that was left
        del kept[name]
    for name in ("created_at", "run_at", "expires_at", "finished_at"):
        kept[name] = None if kept[name] is None else round(kept[name], 3)
    return kept


async def contents(oq: AsyncOmniQ) -> dict[str, Any]:
    """All that is at a place."""
    store, records = await oq.task_queue.ready(), await pages(oq)
    results = oq.result_store.store
    found = [result for record in records for result in await results.get([record.id]) if result is not None]
    return {
        "tasks": {record.id: told(record) for record in records},
        "children": dict(zip([r.id for r in records], await children(oq, records), strict=True)),
        "results": {r.task_id: (r.epoch, r.status, r.body, r.schedule_id, r.expires_at is None) for r in found},
        "schedules": [(s.id, s.queue_name, s.body, s.next_run, s.last_run, s.paused) for s in await store.schedules()],
    }


async def children(oq: AsyncOmniQ, records: list[TaskRecord]) -> list[list[str]]:
    store = await oq.task_queue.ready()
    return [await_ for record in records for await_ in await store.children([record.id])]


# ── stopped ──────────────────────────────────────────────────────────────────


WRITES = ("add", "transition", "delete", "pause", "put", "put_schedule", "delete_schedule")


async def small(oq: AsyncOmniQ, log: Path) -> list[str]:
    """A few tasks of all kinds; returns the ids of those that are yet to run."""
    async with oq.worker_pool("async", queues=QUEUES) as pool:
        await oq.enqueue(fail, max_retries=0)
        done = await oq.enqueue(add, [1, 2])
        await pool.drain()
    await oq.schedule(add, [1, 2], interval=LATER, schedule_id="active")
    await oq.schedule(add, [1, 2], interval=LATER, schedule_id="paused")
    await oq.pause_schedule("paused")
    await oq.enqueue(add, [1, 2], queue_name="low")
    await oq.pause_queue("low")
    ids = [new_id() for _ in range(4)]
    families: list[list[str]] = [[], [done], [ids[0]], [ids[1], ids[2]]]
    for id_, parents in zip(ids, families, strict=True):
        await oq.enqueue(note, [str(log), id_], task_id=id_, depends_on=parents)
    return ids


class KilledError(Exception):
    """Nothing is written after it."""


async def stopped_before(writes: int, old: AsyncOmniQ, new: AsyncOmniQ) -> bool:
    """Move until so many writes were made; returns whether there were more to make."""
    left = writes

    def counted(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return await call(*args, **kwargs)

        return counting

    stores: list[Any] = [store for oq in (old, new) for store in (oq.task_queue.store, oq.task_queue.stores.results)]
    with pytest.MonkeyPatch.context() as patch:
        for store in stores:
            for verb in WRITES:
                if hasattr(store, verb):
                    patch.setattr(store, verb, counted(getattr(store, verb)))
        try:
            await AsyncMigration(old, new).run()
        except KilledError:
            return True
    return False
