"""Events one by one: all that there are, or those that come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, Protocol, Self

from msgspec.structs import replace

from omniq import clock
from omniq.batching import Backoff
from omniq.clock import FIRST_SECOND, LAST_SECOND, Duration, seconds
from omniq.errors import InvalidTask, StoreError
from omniq.loops import Wait, Waits
from omniq.models.event import TaskEvent
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import place_of
from omniq.sync import refuse_in_loop
from omniq.texts import get_logger

log = get_logger("omniq.events")

POLL_INTERVAL: Final = 0.5
OVERLAP: Final = 30.0
"""Seconds that a follower looks back: an event may be stored so long after it happened. That is more than a logger
takes to write a full buffer once its store is back, and than the clocks of hosts differ by."""
SHALLOW: Final = 2.0
"""Seconds that it looks back where looking back further takes long."""
DUTY: Final = 10
"""Times as long as a look far back took, until the next one."""
PAGE: Final = 1000
"""Events that are read at once."""
MAX_IDS: Final = 100
"""Events that a follower's cursor names: more may come again after it."""
MAX_PAUSE: Final = 5.0
"""Seconds until a store that is away is asked again, at most."""


class Source(Protocol):
    """Where events come from."""

    async def page(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage: ...

    @property
    def waits(self) -> Waits: ...


def check_cursor(cursor: object, name: str) -> tuple[float, list[str]]:
    """The time and the ids of a cursor. Raises `InvalidTask` for what is none; `name` is that of the argument."""
    if isinstance(cursor, str) and cursor.isprintable():
        with suppress(ValueError):
            at, ids = place_of(cursor)
            if FIRST_SECOND <= at <= LAST_SECOND:
                return at, [id_ for id_ in ids.split(",") if id_]
    raise InvalidTask(f"{name}: expected a cursor, as an event or a follower has one, got {cursor!r:.80}")


class AsyncEventStream(AsyncIterator[TaskEvent]):
    """Events as an asynchronous iterator. `cursor` tells where to go on after the event that came last."""

    def __init__(self, events: AsyncGenerator[TaskEvent], cursor: Callable[[], str | None]) -> None:
        self._events = events
        self._cursor = cursor

    @property
    def cursor(self) -> str | None:
        """What `after` takes to go on behind the event that came last; None if none came, unless they are followed."""
        return self._cursor()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """End it."""
        await self._events.aclose()


class EventStream(Iterator[TaskEvent]):
    """`AsyncEventStream` as a plain iterator, whose steps block."""

    def __init__(self, aio: AsyncEventStream, call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.aio = aio
        self._call = call

    @property
    def cursor(self) -> str | None:
        """As `AsyncEventStream.cursor`."""
        return self.aio.cursor

    def __next__(self) -> TaskEvent:
        refuse_in_loop("next()")
        event: TaskEvent | None = self._call(self._next())
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> TaskEvent | None:
        return await anext(self.aio, None)

    def close(self) -> None:
        """End it."""
        self._call(self.aio.aclose())


# ── all there are ───────────────────────────────────────────────────────────


class Reader:
    """Reads all events that match, page by page."""

    def __init__(self, source: Source, where: EventFilter, *, oldest_first: bool, after: str | None) -> None:
        if after is not None:
            check_cursor(after, "after")
        self._source = source
        self._where = where
        self._oldest_first = oldest_first
        self.cursor = after

    async def run(self, prepare: Callable[[], Awaitable[None]]) -> AsyncGenerator[TaskEvent]:
        """The events."""
        await prepare()
        cursor = self.cursor
        while True:
            page = await self._source.page(self._where, oldest_first=self._oldest_first, limit=PAGE, cursor=cursor)
            for event in page.events:
                self.cursor = event.cursor
                yield event
            if (cursor := page.cursor) is None:
                return


# ── those that come ─────────────────────────────────────────────────────────


class Follower:
    """Yields events as they are stored, by asking for them again and again.

    Processes write their events some time after they happened, and not in order. So each look begins `overlap` before
    the newest event that was seen, and what was seen already is left out by its id.
    """

    def __init__(
        self,
        source: Source,
        where: EventFilter,
        *,
        after: str | None,
        is_patient: bool = False,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
    ) -> None:
        if where.until is not None:
            raise InvalidTask("until: leave it out where events are followed")
        self._source = source
        self._where = where
        self._poll_interval = _positive("poll_interval", poll_interval)
        self._overlap = _positive("overlap", overlap)
        self._is_patient = is_patient
        self._begin(after)
        self._seen_until = 0.0
        """When a look far back is worth it again, on `time.monotonic()`'s clock."""
        self._held: tuple[float, float] | None = None
        """The newest event's time when the store went away, and until when looks begin before that."""
        self._backoff = Backoff(self._poll_interval, max(self._poll_interval, MAX_PAUSE))

    def _begin(self, after: str | None) -> None:
        since = self._where.since
        if after is None:
            self._newest = self._floor = clock.now() if since is None else since
            self._seen: dict[str, float] = {}
        else:
            self._newest, ids = check_cursor(after, "after")
            self._floor = max(FIRST_SECOND, self._newest - self._overlap, FIRST_SECOND if since is None else since)
            self._seen = dict.fromkeys(ids, self._newest)

    def cursor(self, *, without: str | None = None) -> str:
        """Where to go on: what came before it is given no more, but for what its `overlap` is too long to name.

        The event of the id `without` counts as not given.
        """
        given = islice((id_ for id_ in reversed(self._seen) if id_ != without), MAX_IDS)
        return f"{self._base!r}/{','.join(given)}"

    def take_back(self, id_: str) -> None:
        """Give that event again."""
        self._seen.pop(id_, None)

    async def run(self, prepare: Callable[[], Awaitable[None]]) -> AsyncGenerator[TaskEvent]:
        """The events, without an end. Raises `StoreError` if the store fails at the start, unless it `is_patient`."""
        waits = self._source.waits  # as they are now: a storage that is closed has others when it opens again
        await prepare()
        has_answered = self._is_patient
        while True:
            try:
                async for event in self._look():
                    yield event
                has_answered = True
                self._backoff.reset()
                await _sleep(self._poll_interval, waits)
            except StoreError as error:
                if not has_answered:
                    raise
                self._hold(error)
                await _sleep(self._backoff.step(), waits)

    async def _look(self) -> AsyncGenerator[TaskEvent]:
        """What is new."""
        began, at = time.monotonic(), clock.now()
        is_deep = began >= self._seen_until
        since = max(self._floor, self._base - (self._overlap if is_deep else min(SHALLOW, self._overlap)))
        if is_deep:
            self._seen = {id_: time for id_, time in self._seen.items() if time >= since}
        cursor, took = None, 0.0
        while True:
            asked = time.monotonic()
            where = replace(self._where, since=since)
            page = await self._source.page(where, oldest_first=True, limit=PAGE, cursor=cursor)
            took += time.monotonic() - asked
            for event in self._new(page.events):
                yield event
            if (cursor := page.cursor) is None:
                break
        self._advance(at - self._overlap)
        if is_deep:
            self._seen_until = time.monotonic() + DUTY * took

    def _new(self, events: Sequence[TaskEvent]) -> Iterator[TaskEvent]:
        """Those that weren't given yet; they count as given one by one."""
        for event in events:
            if event.id not in self._seen:
                self._seen[event.id] = event.time
                self._advance(min(event.time, clock.now()))  # one host's clock may be ahead of all others'
                yield event

    def _advance(self, to: float) -> None:
        self._newest = max(self._newest, to)

    @property
    def _base(self) -> float:
        """The time before which all is given, but for what comes late."""
        if self._held is not None and time.monotonic() < self._held[1]:
            return self._held[0]
        return self._newest

    def _hold(self, error: StoreError) -> None:
        """Events wait in their processes while the store is away, and come late."""
        if self._held is None or time.monotonic() >= self._held[1]:
            log.warning("events can't be followed, trying again: %s", error)
        self._held = self._base, time.monotonic() + self._overlap


async def _sleep(pause: float, waits: Waits) -> None:
    with Wait(waits):
        await asyncio.sleep(pause)


def _positive(name: str, duration: Duration) -> float:
    value = seconds(name, duration)
    if not value or value <= 0:
        raise InvalidTask(f"{name}: expected more than 0 seconds, got {duration!r:.80}")
    return value
