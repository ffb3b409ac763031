"""A client that enqueues, looks, waits and schedules whatever happens, and knows what must have come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from omniq import AsyncOmniQ
from omniq.errors import StoreError
from omniq.models import TaskState
from omniq.queue.options import TaskCall

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds within which everything must have come right."""
PAUSE = 0.05
AT_ONCE = 20
"""Tasks that are enqueued at once."""


class Load:
    """Tasks that return their numbers; each is enqueued once, as far as the client knows."""

    def __init__(self, oq: AsyncOmniQ, *, seconds: float) -> None:
        self._oq = oq
        self._seconds = seconds
        self.values: dict[str, int] = {}
        """What each task must return."""
        self.schedules: set[str] = set()
        self._waiting: list[asyncio.Task[str | None]] = []

    # ── what it does ─────────────────────────────────────────────────────────

    async def enqueue(self, count: int) -> None:
        """Add so many tasks: one by one, some at a time, and a quarter in bulk."""
        bulk = count // 4
        await self._enqueue_many(bulk)
        for start in range(bulk, count, AT_ONCE):
            await asyncio.gather(*(self._enqueue() for _ in range(start, min(start + AT_ONCE, count))))

    async def _enqueue(self) -> None:
        number = len(self.values)
        try:
            task_id: str = await self._oq.enqueue(asyncio.sleep, [self._seconds, number])
        except StoreError as error:
            (task_id,) = error.task_ids
            await surely(lambda: self._oq.enqueue(asyncio.sleep, [self._seconds, number], task_id=task_id))
        self._expect(task_id, number)

    async def _enqueue_many(self, count: int) -> None:
        numbers = range(len(self.values), len(self.values) + count)
        calls = [TaskCall(func=asyncio.sleep, func_args=[self._seconds, number]) for number in numbers]
        try:
            ids: Sequence[str] = await self._oq.enqueue_many(calls)
        except StoreError as error:
            ids = error.task_ids
            named = [
                TaskCall(func=call.func, func_args=call.func_args, options={"task_id": id_})
                for call, id_ in zip(calls, ids, strict=True)
            ]
            await surely(lambda: self._oq.enqueue_many(named))
        for task_id, number in zip(ids, numbers, strict=True):
            self._expect(task_id, number)

    def _expect(self, task_id: str, number: int) -> None:
        self.values[task_id] = number
        self._waiting.append(asyncio.create_task(self._wrong_value(task_id, number)))

    async def look_around(self) -> None:
        """Use every other call of the front door once, and enqueue a family."""
        oq = self._oq
        await self._schedule()
        await surely(oq.list_schedules)
        await surely(oq.list_tasks)
        await surely(oq.task_queue.stats)
        if self.values:
            known = next(iter(self.values))
            await surely(lambda: oq.get_task(known))
            await surely(lambda: oq.result_store.get(known))
        await self._enqueue_family()

    async def _schedule(self) -> None:
        try:
            schedule_id = await self._oq.schedule(asyncio.sleep, [0.0], interval=3600.0)
        except StoreError as error:
            schedule_id = str(error.schedule_id)
            await surely(lambda: self._oq.schedule(asyncio.sleep, [0.0], interval=3600.0, schedule_id=schedule_id))
        self.schedules.add(schedule_id)
        await surely(lambda: self._oq.pause_schedule(schedule_id))
        await surely(lambda: self._oq.resume_schedule(schedule_id))

    async def _enqueue_family(self) -> None:
        parent, child = f"parent-{len(self.values)}", f"child-{len(self.values)}"
        await surely(lambda: self._oq.enqueue(asyncio.sleep, [0.0, -1], task_id=parent))
        await surely(lambda: self._oq.enqueue(asyncio.sleep, [0.0, -2], task_id=child, depends_on=parent))
        self._expect(parent, -1)
        self._expect(child, -2)

    # ── what must have come of it ────────────────────────────────────────────

    async def complaints(self) -> list[str]:
        """What is wrong with the values that tasks returned, once all have ended."""
        found = await asyncio.gather(*self._waiting)
        return [complaint for complaint in found if complaint is not None]

    async def _wrong_value(self, task_id: str, number: int) -> str | None:
        try:
            value = await surely(lambda: self._oq.get_result(task_id, timeout=PATIENCE))
        except Exception as error:
            return f"task {task_id}: {type(error).__name__}: {error}"
        return None if value == number else f"task {task_id} returned {value!r} instead of {number}"


async def surely(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns, once the store is there."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except StoreError:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(PAUSE)


async def stored(oq: AsyncOmniQ) -> dict[str, TaskState]:
    """The tasks in the store and their states, without those of schedules."""
    tasks = await oq.list_tasks(limit=10_000)
    return {task.id: task.state for task in tasks if task.schedule_id is None}


async def charged(oq: AsyncOmniQ) -> list[str]:
    """The tasks that were charged a crash."""
    return [task.id for task in await oq.list_tasks(limit=10_000) if task.crashes]
