"""Ending what runs for too long on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
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
