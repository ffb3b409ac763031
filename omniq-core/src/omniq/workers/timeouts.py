"""Ending what runs for too long on an event loop, and how long a worker that stops still waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from contextvars import Context
from typing import Any

from omniq.errors import TaskTimeout


async def within(timeout: float | None, awaitable: Awaitable[Any]) -> Any:
    """Await it for at most `timeout` seconds. Raises `TaskTimeout`; a `TimeoutError` of its own stays one."""
    if timeout is None:
        return await awaitable
    limit = _Limit(timeout)
    try:
        return await awaitable
    except asyncio.CancelledError:
        if limit.reached and limit.alone:
            raise TaskTimeout from None
        raise
    finally:
        limit.lift()


class _Limit:
    """Cancels the current task after some seconds.

    Unlike that of `asyncio.timeout`, its timer keeps nothing of the task: a loop forgets cancelled timers late.
    """

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.reached = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._reach, context=Context())

    @property
    def alone(self) -> bool:
        """Whether nobody else has cancelled the task."""
        return self._task.cancelling() <= self._cancelling + 1

    def lift(self) -> None:
        """Let the task be."""
        self._timer.cancel()
        if self.reached:
            self._task.uncancel()

    def _reach(self) -> None:
        self.reached = True
        asyncio.Task.cancel(self._task)  # not what a worker makes of cancellations by others


class GracePeriod:
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
        """Wait for the event, or until it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends_at) as self._timeout:
                await event
        self._timeout = None
