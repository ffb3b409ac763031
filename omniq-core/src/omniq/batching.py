"""Group commit without timers: while one batch is in flight, the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of payloads that travel together, unless a single one is larger."""


def parts(
    items: Sequence[T], size: Callable[[T], int], *, limit: int, max_bytes: int = MAX_BYTES
) -> Iterator[Sequence[T]]:
    """The items in order, in parts of at most `limit` items and `max_bytes` bytes; a larger item goes alone."""
    start = total = 0
    for index, item in enumerate(items):
        weight = size(item)
        total += weight
        if index > start and (index - start == limit or total > max_bytes):
            yield items[start:index]
            start, total = index, weight
    if start < len(items):
        yield items[start:]


class Batcher(Generic[T, R]):
    """Turns many concurrent `submit(item)` calls of one event loop into few `flush(items)` calls.

    An idle batcher flushes at the loop's next turn, so that a lone call waits for nobody; under load
    the batch grows by itself to what arrives while the previous one is in flight, up to `limit` items and, where
    `size` tells that of an item, up to `max_bytes`: a larger one goes alone.
    `flush` answers with one result per item, in order; its error goes to every item of the batch.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        limit: int = 1000,
        size: Callable[[T], int] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._flush = flush
        self._limit = limit
        self._size = size
        self._max_bytes = max_bytes
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
                count = self._count()
                batch = self._items[:count]
                del self._items[:count]
                await self._flush_one(batch)
                del batch  # else it would be kept until the next one is there
        finally:
            self._runner = None

    def _count(self) -> int:
        """How many of the items the next batch has."""
        size = self._size
        if size is None:
            return self._limit
        total = 0
        for index, (item, _) in enumerate(self._items[: self._limit]):
            total += size(item)
            if total > self._max_bytes:
                return max(1, index)
        return self._limit

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
