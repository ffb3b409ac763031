"""Taking back what dead workers held, without charging anybody for a store that stalled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.models.config import WorkerConfig
from omniq.models.result import Outcome
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.storage.records import LapsedLease, TaskRecord
from omniq.workers.settling import poisoned

log = get_logger("omniq.worker")

PAGE = 500
CALLS = 6
"""Calls as long as the last one for which an interval leaves time: a busy store may be busier yet."""


class Reaper:
    """Takes back the tasks whose leases have run out, once a second look confirms that nobody renews them.

    While a store can't be reached, all leases run out and nobody is to blame. So a lease is taken only if this
    reaper saw it run out at least a third of a lease ago, by its own monotonic clock, and the store still shows it
    unrenewed: time enough for every living worker to renew what it holds. Recovery from a death takes at most
    4/3 lease + reap interval.
    """

    def __init__(self, queue: AsyncTaskQueue[Any], config: WorkerConfig, on_reaped: Callable[[], None]) -> None:
        self._queue = queue
        self._config = config
        self._on_reaped = on_reaped
        self._confirm_after = config.lease / 3
        self._seen: dict[LapsedLease, float] = {}
        """When each lease was first seen to have run out, on `time.monotonic()`'s clock."""
        self._took = 0.0
        """Seconds that the last look took."""

    async def run(self) -> None:
        """Look within each `reap_interval`, and when what was seen can be confirmed, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except StoreError as error:
                log.warning("lapsed leases can't be looked for, trying again: %s", error)
            self._took = time.monotonic() - began
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        interval = self._config.reap_interval
        spread = interval * random.uniform(0.75, 0.95)  # so that workers don't all look at once
        spread = max(interval / 2, spread - CALLS * self._took)
        if not self._seen:
            return spread
        confirmed_in = min(self._seen.values()) + self._confirm_after - time.monotonic()
        return min(spread, max(0.0, confirmed_in) + 0.001)

    async def look(self) -> None:
        """Take back what has been confirmed, and take note of what is new."""
        lapsed = await self._lapsed()
        now = time.monotonic()
        self._seen = {lease: self._seen.get(lease, now) for lease in lapsed}
        confirmed = [lease for lease, since in self._seen.items() if now - since >= self._confirm_after]
        for start in range(0, len(confirmed), PAGE):
            await self._reap(confirmed[start : start + PAGE])

    async def _lapsed(self) -> list[LapsedLease]:
        store = await self._queue.ready()
        found = page = await store.lapsed(limit=PAGE)
        while len(page) == PAGE:
            page = await store.lapsed(limit=PAGE, after=page[-1])
            found = [*found, *page]
        return found

    async def _reap(self, leases: Sequence[LapsedLease]) -> None:
        crashes = {lease.task_id: lease for lease in leases}
        back = await self._queue.store.reap(leases)
        for record in back:
            log.warning(
                "task %s: the lease of worker %s ran out, it goes back (crashes: %d)",
                record.id,
                crashes[record.id].worker,
                record.crashes,
            )
        await self._bury([record for record in back if record.crashes >= self._config.max_crashes])
        if back:
            self._on_reaped()

    async def _bury(self, records: Sequence[TaskRecord]) -> None:
        """Dead-letter tasks whose process died too often."""
        for record in records:
            ran = poisoned(record.crashes)
            outcome = Outcome(error_type=ran.error_type, error_message=ran.error_message, attempts=record.attempts + 1)
            await self._queue.end_tasks([record], TaskState.ERROR, outcome)
