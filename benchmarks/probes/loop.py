"""The loop around a store's bare statements: claim, call, settle with a stored result, in batches."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec
from measure import report

SLOTS = 100
ADDED_AT_ONCE = 500
CLAIMED_AT_ONCE = 200

encode = msgspec.msgpack.encode


class Probe(ABC):
    """Adds tasks to an empty place and works them off; nothing else of a queue."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.inbox: asyncio.Queue[str] = asyncio.Queue()
        self.done: list[tuple[str, bytes]] = []
        self.has_done = asyncio.Event()

    @abstractmethod
    async def open(self) -> None:
        """Connect, and create what is needed."""

    @abstractmethod
    async def add(self, ids: Sequence[str]) -> None:
        """Store a task for each id."""

    @abstractmethod
    async def claim(self, limit: int) -> list[str]:
        """The ids of due tasks, which are this worker's from now on."""

    @abstractmethod
    async def settle(self, batch: Sequence[tuple[str, bytes]]) -> int:
        """Store results and end their tasks where these are still this worker's; returns how many were."""

    async def measure(self) -> None:
        """Print how many tasks a second are enqueued, and then worked off."""
        await self.open()
        enqueue = await self.fill()
        report(enqueue_per_s=round(enqueue), process_per_s=round(await self.work()))

    async def fill(self) -> float:
        """Add all tasks; returns how many a second."""
        began = time.perf_counter()
        for start in range(0, self.tasks, ADDED_AT_ONCE):
            await self.add([f"{number:032x}" for number in range(start, min(start + ADDED_AT_ONCE, self.tasks))])
        return self.tasks / (time.perf_counter() - began)

    async def work(self) -> float:
        """Run all tasks; returns how many a second."""
        began = time.perf_counter()
        slots = [asyncio.create_task(self._slot()) for _ in range(SLOTS)]
        await asyncio.gather(self._fetch(), self._flush())
        elapsed = time.perf_counter() - began
        for slot in slots:
            slot.cancel()
        return self.tasks / elapsed

    async def _slot(self) -> None:
        while True:
            task_id = await self.inbox.get()
            async with asyncio.timeout(60):
                value = await noop()
            self.done.append((task_id, encode({"s": "success", "v": value})))
            self.has_done.set()

    async def _fetch(self) -> None:
        left = self.tasks
        while left:
            if self.inbox.qsize() >= SLOTS:
                await asyncio.sleep(0)
                continue
            ids = await self.claim(CLAIMED_AT_ONCE)
            left -= len(ids)
            for task_id in ids:
                self.inbox.put_nowait(task_id)

    async def _flush(self) -> None:
        left = self.tasks
        while left:
            await self.has_done.wait()
            self.has_done.clear()
            batch, self.done = self.done, []
            left -= await self.settle(batch)


async def noop() -> int:
    return 1
