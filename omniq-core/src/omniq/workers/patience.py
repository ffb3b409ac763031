"""How long a worker that stops still waits for its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress


class Patience:
    """How long a stopping worker still waits; it can only get shorter."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long it is from the beginning."""
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + seconds
        self._timeout: asyncio.Timeout | None = None

    def shorten(self, seconds: float | None) -> None:
        """End in so many seconds, if that is sooner; None changes nothing."""
        if seconds is not None:
            self.seconds = min(self.seconds, seconds)
            self._ends_at = min(self._ends_at, self._loop.time() + seconds)
            if self._timeout is not None:
                self._timeout.reschedule(self._ends_at)

    async def wait_for(self, event: Awaitable[object]) -> None:
        """Wait for the event, or until patience has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends_at) as self._timeout:
                await event
        self._timeout = None
