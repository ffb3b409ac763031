"""Deadlines that hold whatever a driver does with its cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from omniq.logs import get_logger

T = TypeVar("T")

log = get_logger("omniq.deadlines")

_abandoned: set[asyncio.Task[Any]] = set()


async def within(seconds: float | None, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns. Raises `TimeoutError` after so many seconds; None waits without a limit.

    Work that is late, or whose caller is cancelled, is cancelled and not waited for: a driver may take long to give
    up a server that doesn't answer.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise TimeoutError(f"not done within {seconds:g} s")
    return task.result()


def _abandon(task: asyncio.Task[Any]) -> None:
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("work that was given up has failed: %s", error)
