"""What a task leaves running, and what won't stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

_left: set[asyncio.Task[Any]] = set()


def leave(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Start it and don't wait for it."""
    task = asyncio.create_task(coroutine)
    _left.add(task)
    task.add_done_callback(_left.discard)


async def stay(seconds: float) -> None:
    """Wait so long, whatever anybody says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)
