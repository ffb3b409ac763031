"""What every worker does for all of them, from time to time: each job is safe for any number of workers at once."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.models.config import WorkerConfig
from omniq.queue.engine import AsyncTaskQueue

log = get_logger("omniq.worker")

SWEEP_INTERVAL = 30.0
PURGE_INTERVAL = 60.0


class Upkeep:
    """Ends what is overdue, releases children that somebody has left waiting, and forgets what is old."""

    def __init__(self, queue: AsyncTaskQueue[Any], config: WorkerConfig) -> None:
        self._queue = queue
        self._config = config
        self._swept = self._purged = time.monotonic()

    async def run(self) -> None:
        """Look every `reap_interval`, spread so that workers don't all look at once, until cancelled."""
        while True:
            await self._guarded(self._look)
            await asyncio.sleep(self._config.reap_interval * random.uniform(0.9, 1.1))

    def sweep_soon(self) -> None:
        """Look for children at the next turn: who died may have ended a task and not have come to release them."""
        self._swept = -math.inf

    async def _guarded(self, job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        except StoreError as error:
            log.warning("upkeep failed, trying again: %s", error)

    async def _look(self) -> None:
        await self._queue.ttl.expire()
        now = time.monotonic()
        if now - self._swept > SWEEP_INTERVAL:
            self._swept = now
            await self._queue.dependencies.sweep()
        if now - self._purged > PURGE_INTERVAL:
            await self._queue.ttl.purge(retention=max(self._config.retention, 10 * self._config.lease))
            self._purged = now
