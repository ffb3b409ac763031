"""The reference store of events."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import attrgetter

from omniq.models.event import TaskEvent
from omniq.models.state import EventType
from omniq.storage.base import BaseEventStorage
from omniq.testing.reference.space import ReferenceStore

_time = attrgetter("time")


class ReferenceEventStore(ReferenceStore, BaseEventStorage):
    """Events in this process, oldest first: `ReferenceEventStore("name")` shares them by name."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        with self.space.lock:
            for event in events:
                insort(self.space.events, event, key=_time)

    async def query(
        self,
        *,
        task_id: str | None = None,
        schedule_id: str | None = None,
        types: Sequence[EventType] = (),
        since: float | None = None,
        limit: int = 100,
    ) -> list[TaskEvent]:
        with self.space.lock:
            start = 0 if since is None else bisect_left(self.space.events, since, key=_time)
            found = self.space.events[start:]
        found = [
            event
            for event in found
            if (task_id is None or event.task_id == task_id)
            and (schedule_id is None or event.schedule_id == schedule_id)
            and (not types or event.type in types)
        ]
        return found[max(0, len(found) - limit) :]

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        with self.space.lock:
            gone = min(limit, bisect_left(self.space.events, before, key=_time))
            del self.space.events[:gone]
        return gone
