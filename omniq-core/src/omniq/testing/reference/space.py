"""A place that stores of one process share, as they would share a database."""

from __future__ import annotations

import threading
from itertools import count
from typing import TypeAlias

from omniq.ids import new_id
from omniq.models.task import TaskEvent
from omniq.storage.base import Guarantees, Store
from omniq.testing.reference.tables import ResultTable, ScheduleTable
from omniq.testing.reference.tasks import TaskTable

_named: dict[str, ReferenceSpace] = {}
_named_lock = threading.Lock()


class ReferenceSpace:
    """Tasks, schedules, results and events at one location, behind one lock.

    Whoever touches the tables holds `lock`, which is never held across an `await`.
    """

    def __init__(self, location: str | None = None) -> None:
        self.location = location or f"reference:{new_id()}"
        self.lock = threading.Lock()
        self.tasks = TaskTable()
        self.schedules = ScheduleTable()
        self.results = ResultTable()
        self.events: list[tuple[float, int, TaskEvent]] = []
        """Each with its time and a number of its own."""
        self.numbers = count()

    @classmethod
    def at(cls, location: str) -> ReferenceSpace:
        """The space of that location, which lives as long as the process."""
        with _named_lock:
            return _named.setdefault(location, cls(location))


Place: TypeAlias = str | ReferenceSpace | None
"""A name that stores of this process share, a space, or None for a space of one's own."""


class ReferenceStore(Store):
    """What the three reference stores have in common. There is nothing to open or to close."""

    networked: bool = False

    def __init__(self, place: Place = None) -> None:
        self.space = ReferenceSpace.at(f"reference:{place}") if isinstance(place, str) else place or ReferenceSpace()

    @property
    def location(self) -> str:
        return self.space.location

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=False,
            survives_power_loss=False,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
        )

    async def connect(self) -> None:
        """Safe to repeat."""

    async def close(self) -> None:
        """Safe to repeat. The data stays in the space."""
