"""Calls of a store: shared between those who call at once, apart where one fails, repeated, and given up."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from omniq.errors import Closed, StoreFull, StoreUnavailable
from omniq.loops import spawn
from omniq.texts import get_logger

T = TypeVar("T")
R = TypeVar("R")

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of payloads that travel together, unless a single one is larger."""


def parts(
    items: Sequence[T],
    size: Callable[[T], int] | None = None,
    *,
    limit: int,
    max_bytes: int = MAX_BYTES,
    id_of: Callable[[T], object] | None = None,
) -> Iterator[Sequence[T]]:
    """The items in order, in parts of at most `limit` items and `max_bytes` bytes; a larger item goes alone.

    No part has two items of one id, where `id_of` tells that of an item.
    """
    start = 0
    while start < len(items):
        part = items[start : start + limit] if start or len(items) > limit else items
        fits = size is None or sum(map(size, part)) <= max_bytes
        if not (fits and (id_of is None or len(set(map(id_of, part))) == len(part))):  # as it does nearly always
            part = part[: _fitting(part, size, max_bytes, id_of)]
        yield part
        start += len(part)


def _fitting(
    items: Sequence[T], size: Callable[[T], int] | None, max_bytes: int, id_of: Callable[[T], object] | None
) -> int:
    """How many of the items, but one at least, are one part."""
    total = 0
    seen: set[object] = set()
    for index, item in enumerate(items):
        total += 0 if size is None else size(item)
        id_ = index if id_of is None else id_of(item)
        if index and (total > max_bytes or id_ in seen):
            return index
        seen.add(id_)
    return len(items)


async def apart(flush: Callable[[Sequence[T]], Awaitable[Sequence[R]]], items: Sequence[T]) -> list[R | Exception]:
    """What `flush` answers to each item, or its error.

    All go in one call. If that fails, in halves, so that an item which can't be done keeps no other from it; but a
    store that can't be reached isn't asked again.
    """
    answers: list[R | Exception] = []
    pieces = [items]
    while pieces:
        piece = pieces.pop()
        try:
            answered = await flush(piece)
        except StoreUnavailable as error:
            return answers + [error] * (len(items) - len(answers))
        except Exception as error:
            if len(piece) == 1:
                answers.append(error)
            else:
                half = len(piece) // 2
                pieces += [piece[half:], piece[:half]]
        else:
            answers += _matching(answered, piece)
    return answers


def _matching(answers: Sequence[R], items: Sequence[object]) -> Sequence[R | Exception]:
    if len(answers) == len(items):
        return answers
    return [ValueError(f"{len(answers)} answers to {len(items)} items")] * len(items)


class Batcher(Generic[T, R]):
    """Turns many concurrent `submit(item)` calls of one event loop into few `flush(items)` calls.

    An idle batcher flushes at the loop's next turn, so that a lone call waits for nobody; under load
    the batch grows by itself to what arrives while the previous one is in flight, up to `limit` items and, where
    `size` tells that of an item, up to `max_bytes`: a larger one goes alone.
    `flush` answers with one result per item, in order. If it fails, the items are tried `apart`.
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
        self._in_flight: list[tuple[T, asyncio.Future[R]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Put the item into the next batch and return its result.

        A caller that is cancelled doesn't take its item back: the batch goes on. Raises what `flush` raises, and
        `Closed` when the batcher itself is cancelled, as at the end of its loop.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._items.append((item, future))
        if self._runner is None:
            self._start()
        return await future

    async def drain(self) -> None:
        """Wait until nothing is gathered or in flight."""
        while self._runner is not None:
            await asyncio.wait([self._runner])

    def _start(self) -> None:
        self._runner = spawn(self._run())
        self._runner.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._items:
            count = self._count()
            batch = self._in_flight = self._items[:count]
            del self._items[:count]
            _tell(batch, await apart(self._flush, [item for item, _ in batch]))
            del batch  # else it would be kept until the next one is there
            self._in_flight = []

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

    def _ended(self, runner: asyncio.Task[None]) -> None:
        """Go on with what came meanwhile; but nobody may wait for a runner that was cancelled, begun or not."""
        self._runner = None
        if runner.cancelled() or runner.exception() is not None:
            left = [*self._in_flight, *self._items]
            self._items.clear()
            _tell(left, [Closed("the call was given up together with the task that made it")] * len(left))
        elif self._items:
            self._start()


def _tell(batch: Sequence[tuple[T, asyncio.Future[R]]], answers: Sequence[R | Exception]) -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():  # its caller was cancelled
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


# ── repeating ───────────────────────────────────────────────────────────────


P = ParamSpec("P")

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


def level_of(error: Exception) -> int:
    """How loud the log says that a store has failed: what an open breaker has told isn't told again."""
    return logging.DEBUG if isinstance(error, StoreUnavailable) and error.logged else logging.WARNING


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


# ── deadlines ───────────────────────────────────────────────────────────────


log = get_logger("omniq.clock")

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
