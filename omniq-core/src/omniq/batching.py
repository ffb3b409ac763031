"""Group commit without timers: while one batch is in flight, the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Turns many concurrent `submit(item)` calls of one event loop into few `flush(items)` calls.

    An idle batcher flushes at the loop's next turn, so that a lone call waits for nobody; under load
    the batch grows by itself to what arrives while the previous one is in flight, up to `limit`.
    `flush` answers with one result per item, in order; its error goes to every item of the batch.
    """

    def __init__(self, flush: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, limit: int = 1000) -> None:
        self._flush = flush
        self._limit = limit
        self._items: list[tuple[T, asyncio.Future[R]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Put the item into the next batch and return its result.

        A caller that is cancelled doesn't take its item back: the batch goes on.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._items.append((item, future))
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        return await future

    async def drain(self) -> None:
        """Wait until nothing is gathered or in flight."""
        while self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            while self._items:
                batch = self._items[: self._limit]
                del self._items[: self._limit]
                await self._flush_one(batch)
        finally:
            self._runner = None

    async def _flush_one(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answered = list(zip(batch, await self._flush([item for item, _ in batch]), strict=True))
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error) if isinstance(error, Exception) else future.cancel()
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), result in answered:
            if not future.done():
                future.set_result(result)
