"""Pauses between attempts to reach what is away, and calls that are made again."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from omniq.errors import StoreFull, StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

REPEATS = 4
"""How often a call is made again whose answer was lost."""
FIRST_PAUSE, MAX_PAUSE = 0.05, 0.4
"""Seconds before it is made again."""
PATIENCE = 5.0
"""Seconds after which a call isn't made again: a store that is silent had its time."""


class Backoff:
    """Pauses that double from `first` to `most` seconds."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self.next = first
        """Seconds of the next pause."""

    def reset(self) -> None:
        """Begin again: it was reached."""
        self.next = self._first

    def step(self) -> float:
        """The seconds of this pause; the next one is longer."""
        pause, self.next = self.next, min(2 * self.next, self._most)
        return pause

    async def pause(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self.step())


async def repeated(call: Callable[[bool], Awaitable[T]]) -> T:
    """What an idempotent call to a store returns, made again where its answer was lost.

    `call` is told whether it was made before, and so may have taken effect. Raises what it raises.
    """
    began, backoff = time.monotonic(), Backoff(FIRST_PAUSE, MAX_PAUSE)
    for attempt in range(REPEATS):
        try:
            return await call(attempt > 0)
        except StoreUnavailable as error:
            if isinstance(error, StoreFull) or time.monotonic() - began > PATIENCE:
                raise
        await backoff.pause()
    return await call(True)


def repeating(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a method that is as good twice as once be called again where its answer was lost."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await repeated(lambda _: method(*args, **kwargs))

    return call
