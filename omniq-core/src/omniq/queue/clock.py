"""The clock by which a queue's store decides."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from omniq import clock

if TYPE_CHECKING:
    from omniq.queue.engine import AsyncTaskQueue

ASK_AGAIN = 30.0
"""Seconds after which a store's clock is asked again."""


class StoreClock:
    """The clock of a queue's store, which alone says what is due: those of hosts differ.

    It is asked seldom, since what passes in between can be measured here.
    """

    def __init__(self, queue: AsyncTaskQueue[Any]) -> None:
        self._queue = queue
        self._ahead = 0.0
        """Seconds by which the store's clock is ahead of `time.monotonic()`, without `omniq.clock.offset()`."""
        self._asked_at = -math.inf

    async def now(self) -> float:
        """Seconds since the epoch on the store's clock. Raises `StoreError`."""
        if time.monotonic() - self._asked_at > ASK_AGAIN:
            await self._ask()
        return time.monotonic() + self._ahead + clock.offset()

    async def _ask(self) -> None:
        store = await self._queue.ready()
        began = time.monotonic()
        now = await store.now() - clock.offset()
        self._asked_at = time.monotonic()
        self._ahead = now - (began + self._asked_at) / 2
