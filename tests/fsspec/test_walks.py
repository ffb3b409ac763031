"""Whoever opens a log that was compacted again and again finds what a store that never wrote anything down has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from omniq.models.task import TaskState
from omniq.storage.base import BaseTaskQueue
from omniq.storage.records import NewTask, ResultRecord, ScheduleRecord, TaskFilter
from omniq.testing import ReferenceQueueStore, ReferenceSpace

from tests.fsspec.support import log_files, lone, success

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "stores_closed", "restless")

STEPS = 150
QUEUES = ("default", "low")


class Walk:
    """The same random calls on both stores."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._count = 0

    async def step(self, stores: Sequence[BaseTaskQueue]) -> None:
        verb = self._random.choice([*[self._add, self._claim] * 4, self._pause, self._put, self._purge])
        choice = self._random.random()
        self._count += 1
        for store in stores:
            await verb(store, choice)

    async def _add(self, store: BaseTaskQueue, choice: float) -> None:
        ids = [f"t{self._count}-{number}" for number in range(int(choice * 5))]
        queue = QUEUES[int(choice * 100) % 2]
        unique = f"u{int(choice * 50)}" if choice < 0.5 else None
        tasks = [NewTask(id=id_, queue_name=queue, body=id_.encode(), priority=int(choice * 10)) for id_ in ids]
        await store.add([replace(task, unique=unique) for task in tasks])

    async def _claim(self, store: BaseTaskQueue, choice: float) -> None:
        claimed = await store.claim(QUEUES, limit=int(choice * 6) + 1, lease=600.0, worker="w")
        ends = [success(task) for task in claimed[: int(choice * 10)]]
        body = b"r" * int(choice * 50)
        result = ResultRecord(task_id="", epoch=1, status=TaskState.SUCCESS, body=body, schedule_id="s")
        await store.transition([replace(end, result=replace(result, task_id=end.task_id)) for end in ends])

    async def _pause(self, store: BaseTaskQueue, choice: float) -> None:
        await store.pause(QUEUES[1], paused=choice < 0.3)

    async def _put(self, store: BaseTaskQueue, choice: float) -> None:
        schedule = ScheduleRecord(id=f"s{int(choice * 5)}", queue_name="default", body=b"s", next_run=choice * 1e10)
        known = await store.schedules([schedule.id])
        await store.put_schedule(schedule, if_version=known[0].version if known else None)

    async def _purge(self, store: BaseTaskQueue, choice: float) -> None:
        await store.purge(older_than=-1.0)  # all, since which of equals goes first is the store's choice


async def contents(store: BaseTaskQueue) -> dict[str, Any]:
    """All that a store holds, without its times."""
    page = await store.find(TaskFilter(), limit=10_000, bodies=True)
    storage = store.result_storage()
    assert storage is not None
    results = await storage.find("s", limit=10_000)
    await storage.close()
    queues = [(stats.name, stats.paused, stats.counts) for stats in await store.stats()]
    return {
        "tasks": [(t.id, t.queue_name, t.state, t.epoch, t.body, t.priority, t.unique, t.damage) for t in page.tasks],
        "results": sorted((result.task_id, result.body, result.damage) for result in results),
        "schedules": await store.schedules(),
        "queues": sorted(queues),
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_snapshots_keep_everything(base: Path, seed: int) -> None:
    walk, reference, store = Walk(seed), ReferenceQueueStore(ReferenceSpace()), lone(base)
    for number in range(STEPS):
        await walk.step([reference, store])
        if number % 15 == 0:
            await store.close()
            store = lone(base)
        if number % 10 == 0:
            assert await contents(store) == await contents(reference)
    await store.close()
    assert len(log_files(base)) < 10
