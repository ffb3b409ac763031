"""Ending tasks that weren't started in time, and forgetting what ended long ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omniq.models.result import Outcome
from omniq.models.state import QUEUED, TaskState
from omniq.storage.records import TaskFilter, TaskRecord

if TYPE_CHECKING:
    from omniq.queue.engine import AsyncTaskQueue

BATCH = 500


class TTLManager:
    """Expires tasks and purges finished ones and old results, in bounded batches."""

    def __init__(self, queue: AsyncTaskQueue[Any]) -> None:
        self._queue = queue

    async def expire(self) -> list[TaskRecord]:
        """End the queued tasks whose TTL is over; returns those that this call ended."""
        ended: list[TaskRecord] = []
        cursor: str | None = None
        while True:
            page = await (await self._queue.ready()).find(TaskFilter(expired=True), limit=BATCH, cursor=cursor)
            # One that was claimed while the page was put together is its worker's to end, or to finish.
            queued = [record for record in page.tasks if record.state in QUEUED]
            ended += await self.expire_records([record for record in queued if record.damage is None])
            # To end them writes stand-ins, perhaps of the very TTL, by which they wouldn't have expired.
            await self._queue.end_damaged([record for record in queued if record.damage is not None])
            cursor = page.cursor
            if cursor is None:
                return ended

    async def expire_records(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """End these queued tasks if the store's clock says that their TTL is over; returns those it ended."""
        return await self._queue.end_tasks(records, TaskState.EXPIRED, Outcome(), if_expired=True)

    async def purge(self, *, retention: float) -> int:
        """Delete tasks that ended more than `retention` seconds ago, and expired results; returns how many."""
        deleted = 0
        store, results = await self._queue.ready(), self._queue.results
        while (count := await store.purge(older_than=retention)) > 0:
            deleted += count
        while results is not None and (count := await results.purge()) > 0:
            deleted += count
        return deleted
