"""What ends by the clock: tasks that weren't started in time, and what was kept for long enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from omniq.models.config import DEAD_LETTER_RETENTION
from omniq.models.result import Outcome
from omniq.models.task import QUEUED, TERMINAL, TaskState
from omniq.queue.policies import DependencyResolver, Stores
from omniq.storage.records import TaskFilter, TaskRecord

EXPIRED_AT_ONCE: Final = 500
PURGED_AT_ONCE: Final = 500
"""Tasks or results that one call deletes: a longer one keeps workers waiting where a store does one at a time."""
DEAD: Final = (TaskState.ERROR,)
FINISHED: Final = tuple(sorted(TERMINAL - {*DEAD}))


class TTLManager:
    """Expires tasks and purges finished ones and old results, in bounded batches."""

    def __init__(self, stores: Stores, dependencies: DependencyResolver) -> None:
        self._stores = stores
        self._dependencies = dependencies

    async def expire(self) -> list[TaskRecord]:
        """End the queued tasks whose TTL is over; returns those that this call ended."""
        ended: list[TaskRecord] = []
        cursor: str | None = None
        while True:
            page = await self._stores.queue.find(TaskFilter(expired=True), limit=EXPIRED_AT_ONCE, cursor=cursor)
            # One that was claimed while the page was put together is its worker's to end, or to finish.
            queued = [record for record in page.tasks if record.state in QUEUED]
            ended += await self.expire_records([record for record in queued if record.damage is None])
            # To end them writes stand-ins, perhaps of the very TTL, by which they wouldn't have expired.
            await self._dependencies.end_damaged([record for record in queued if record.damage is not None])
            cursor = page.cursor
            if cursor is None:
                return ended

    async def expire_records(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """End these queued tasks if the store's clock says that their TTL is over; returns those it ended."""
        return await self._dependencies.end(records, TaskState.EXPIRED, Outcome(), if_expired=True)

    async def expire_unless_told(self, record: TaskRecord) -> None:
        """The same for one, by a program without a worker: it leaves a task that has an `on_failure` to a worker, which
        calls that."""
        (call,) = await self._stores.calls([record])
        if call.on_failure is None:
            await self.expire_records([record])

    async def purge(self, *, retention: float, dead_letter_retention: float | None = DEAD_LETTER_RETENTION) -> int:
        """Delete finished tasks and dead letters that ended so many seconds ago, and expired results; returns how many.

        None keeps dead letters for ever.
        """
        store, results = self._stores.queue, self._stores.results
        deleted = await _in_batches(partial(store.purge, older_than=retention, states=FINISHED))
        if dead_letter_retention is not None:
            deleted += await _in_batches(partial(store.purge, older_than=dead_letter_retention, states=DEAD))
        if results is not None:
            deleted += await _in_batches(results.purge)
        return deleted


async def _in_batches(purge: Callable[..., Awaitable[int]]) -> int:
    """Purge until nothing is left; each batch is followed by as much time for others as it took."""
    deleted = 0
    while True:
        began = time.monotonic()
        count = await purge(limit=PURGED_AT_ONCE)
        if count == 0:
            return deleted
        deleted += count
        await asyncio.sleep(time.monotonic() - began)
