"""The contract of an event storage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from omniq.models.event import TaskEvent
from omniq.storage.base import Store
from omniq.storage.records import EventFilter, EventPage


class BaseEventStorage(Store):
    """What happened, kept as plain columns or JSON."""

    @abstractmethod
    async def append(self, events: Sequence[TaskEvent]) -> None:
        """Store the events."""

    @abstractmethod
    async def query(self, where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> EventPage:
        """A page of the events that match, newest first; those of one time in the reverse order of their `append`.

        `cursor` is that of the page before, and is good as long as the filter is the same. Serve `task_id`,
        `schedule_id` and `since` from indexes; the other conditions may be looked for among what these leave.
        """

    @abstractmethod
    async def purge(self, *, before: float, limit: int = 1000) -> int:
        """Delete up to `limit` events from before that time (seconds since the epoch); returns how many."""
