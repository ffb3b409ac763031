"""The reference store of results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from omniq import clock
from omniq.storage.base import BaseResultStorage
from omniq.storage.records import NewBody, ResultRecord
from omniq.storage.wakeups import News
from omniq.testing.reference.space import ReferenceStore


class ReferenceResultStore(ReferenceStore, BaseResultStorage):
    """Results in this process: `ReferenceResultStore("name")` shares them by name, with the queue of that name too."""

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        with self.space.lock:
            now = clock.now()
            stored = [self.space.results.put(record, now) for record in records]
        self.wakeups.tell(News(ended=[record.task_id for record in records]))
        return stored

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        with self.space.lock:
            return [self.space.results.replace_body(new) for new in bodies]

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        with self.space.lock:
            now = clock.now()
            return [self.space.results.get(id_, now) for id_ in ids]

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        with self.space.lock:
            found = self.space.results.find(schedule_id, clock.now())
        return (found[::-1] if newest_first else found)[:limit]

    async def purge(self, *, limit: int = 1000) -> int:
        with self.space.lock:
            return self.space.results.purge(clock.now(), limit)

    async def hear(self, timeout: float) -> None:
        """There are no other processes."""
        await asyncio.sleep(timeout)
