"""What every worker does for all of them, from time to time: each job is safe for any number of workers at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.models.config import WorkerConfig
from omniq.models.result import Outcome
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.storage.records import TaskRecord
from omniq.workers.settling import poisoned

log = get_logger("omniq.worker")

REAP_BATCH = 500
SWEEP_INTERVAL = 30.0
PURGE_INTERVAL = 60.0


class Upkeep:
    """Recovers what dead workers held, ends what is overdue, fires schedules and forgets what is old."""

    def __init__(self, queue: AsyncTaskQueue[Any], config: WorkerConfig) -> None:
        self._queue = queue
        self._config = config
        self._swept = self._purged = time.monotonic()

    async def run(self) -> None:
        """Look every `reap_interval`, spread so that workers don't all look at once, until cancelled."""
        while True:
            await self._guarded(self._look)
            await asyncio.sleep(self._config.reap_interval * random.uniform(0.8, 1.0))

    async def _guarded(self, job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        except StoreError as error:
            log.warning("upkeep failed, trying again: %s", error)

    async def _look(self) -> None:
        somebody_died = await self._reap()
        await self._queue.ttl.expire()
        now = time.monotonic()
        # Who died may have ended a task and not have come to release its children.
        if somebody_died or now - self._swept > SWEEP_INTERVAL:
            await self._queue.dependencies.sweep()
            self._swept = now
        if now - self._purged > PURGE_INTERVAL:
            await self._queue.ttl.purge(retention=max(self._config.retention, 10 * self._config.lease))
            self._purged = now

    async def _reap(self) -> bool:
        """Whether there was a lease that had run out."""
        found = False
        while True:
            records = await self._queue.store.reap(REAP_BATCH)
            found = found or bool(records)
            for record in records:
                log.warning("task %s: its lease ran out (crash %d), it goes back", record.id, record.crashes)
            await self._bury([record for record in records if record.crashes >= self._config.max_crashes])
            if len(records) < REAP_BATCH:
                return found

    async def _bury(self, records: Sequence[TaskRecord]) -> None:
        """Dead-letter tasks whose process died too often."""
        for record in records:
            ran = poisoned(record.crashes)
            outcome = Outcome(error_type=ran.error_type, error_message=ran.error_message, attempts=record.attempts + 1)
            await self._queue.end_tasks([record], TaskState.ERROR, outcome)
