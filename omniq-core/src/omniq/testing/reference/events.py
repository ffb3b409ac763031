"""The reference store of events."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from omniq.models.task import TaskEvent
from omniq.storage.base import BaseEventStorage
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import cursor_at, matches, place_of
from omniq.testing.reference.space import ReferenceStore


class ReferenceEventStore(ReferenceStore, BaseEventStorage):
    """Events in this process, oldest first: `ReferenceEventStore("name")` shares them by name."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        with self.space.lock:
            for event in events:
                insort(self.space.events, (event.time, next(self.space.numbers), event))

    async def query(self, where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> EventPage:
        with self.space.lock:
            stored = self.space.events
            start = 0 if where.since is None else bisect_left(stored, (where.since,))
            until = len(stored) if where.until is None else bisect_left(stored, (where.until,))
            end = until if cursor is None else bisect_left(stored, place_of(cursor))
            matching = [row for row in stored[start:end] if matches(row[2], where)]
        page = matching[::-1][:limit]
        more = len(matching) > limit
        return EventPage([event for _, _, event in page], cursor_at(*page[-1][:2]) if more else None)

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        with self.space.lock:
            gone = min(limit, bisect_left(self.space.events, (before,)))
            del self.space.events[:gone]
        return gone
