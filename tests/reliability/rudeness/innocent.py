"""Tasks that do no harm, and must come to none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.reliability.rudeness.acts import variable


def add(x: int, y: int) -> int:
    assert variable.get() == "clean"
    return x + y


def add_on_a_loop_of_its_own(x: int, y: int) -> int:
    loop = _current_loop()
    try:
        return loop.run_until_complete(add_slowly(x, y))
    finally:
        loop.close()


def _current_loop() -> asyncio.AbstractEventLoop:
    """The thread's loop, else a new one, as soon as there are descriptors for it."""
    with suppress(RuntimeError, OSError):
        return asyncio.get_event_loop_policy().get_event_loop()
    while True:
        with suppress(OSError):
            return asyncio.new_event_loop()
        time.sleep(0.02)


async def add_slowly(x: int, y: int) -> int:
    assert variable.get() == "clean"
    await asyncio.sleep(0.01)
    return x + y


async def add_in_children(x: int, y: int) -> int:
    return sum(await asyncio.gather(add_slowly(x, 0), add_slowly(0, y)))


async def add_in_a_thread(x: int, y: int) -> int:
    return await asyncio.to_thread(add, x, y)


INNOCENT: tuple[Callable[..., Any], ...] = (add, add_slowly, add_in_children, add_in_a_thread, add_on_a_loop_of_its_own)
