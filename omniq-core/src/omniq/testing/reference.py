"""The contract in one process, built on its rules: to read, to test with, and to build an in-memory backend on; and the
clock that tests move."""

from __future__ import annotations

import asyncio
import datetime as dt
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from types import TracebackType
from typing import ClassVar, Final, Self, TypeAlias, TypeVar

from msgspec.structs import replace

from omniq import clock
from omniq.clock import Duration
from omniq.models.event import TaskEvent
from omniq.models.task import new_id
from omniq.storage import wakeups
from omniq.storage.base import BaseEventStorage, BaseResultStorage, Guarantees
from omniq.storage.documents import Document, Documents, Entry, Write
from omniq.storage.embedded import MemoryTables
from omniq.storage.records import EventFilter, EventPage, WorkerRecord
from omniq.storage.rules import cursor_at, matches, place_of
from omniq.storage.table_set import Step, Tables
from omniq.storage.table_store import TableQueueStore, TableResultStore, TableStore
from omniq.threads import new_lock

T = TypeVar("T")

JOURNAL: Final = "OMNIQ_TEST_PROJECTS"
"""The variable that names the file in which the suite notes its projects, so that none is left behind."""


class VirtualClock:
    """Moves `omniq.clock` while it is entered: leases lapse, delays end and results expire without sleeping.

    Time still passes by itself. Every store adds the clock's offset to its own time, in this process only.
    """

    def __init__(self) -> None:
        self._before: float | None = None

    def __enter__(self) -> Self:
        self._before = clock.offset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            clock.set_offset(self._before)
        self._before = None

    def now(self) -> float:
        """Seconds since the epoch, as the stores see them."""
        return clock.now()

    def advance(self, by: Duration) -> None:
        """Move the clock forward by seconds or a `timedelta`, and wake whoever waits for a store.

        Raises `ValueError` for a step back and `RuntimeError` outside of the `with` block.
        """
        if self._before is None:
            raise RuntimeError("advance: enter the clock first (with VirtualClock() as clock)")
        step = by.total_seconds() if isinstance(by, dt.timedelta) else float(by)
        if not step >= 0:
            raise ValueError(f"advance: expected at least 0 seconds, got {step:g}")
        clock.set_offset(clock.offset() + step)
        wakeups.wake_all()


class ReferenceSpace(MemoryTables):
    """Tasks, schedules, results, events and workers at one location."""

    def __init__(self, location: str | None = None) -> None:
        super().__init__(location or f"reference:{new_id()}")
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        Tables.__init__(self)
        self.workers: dict[str, WorkerRecord] = {}
        self.events: list[tuple[float, str, TaskEvent]] = []
        """Each with its time and its id."""


Place: TypeAlias = str | ReferenceSpace | None
"""A name that stores of this process share, a space, or None for a space of one's own."""


class ReferenceStore(TableStore):
    """What the three reference stores have in common. There is nothing to open or to close."""

    networked: bool = False

    def __init__(self, place: Place = None) -> None:
        self.space = ReferenceSpace.at(f"reference:{place}") if isinstance(place, str) else place or ReferenceSpace()

    @property
    def location(self) -> str:
        return self.space.location

    async def guarantees(self) -> Guarantees:
        return self.space.guarantees

    async def connect(self) -> None:
        """Safe to repeat."""

    async def close(self) -> None:
        """Safe to repeat. The data stays in the space."""

    async def drop(self) -> None:
        """Safe to repeat."""
        with self.space.lock:
            self.space.clear()

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        return self.space.do(step)


class ReferenceQueueStore(ReferenceStore, TableQueueStore):
    """Tasks and schedules in this process: `ReferenceQueueStore("name")` shares them by name.

    Any number of threads and event loops may use one store, or several of one name.
    """

    def result_storage(self) -> BaseResultStorage:
        return ReferenceResultStore(self.space)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        with self.space.lock:
            if leaving:
                self.space.workers.pop(worker.name, None)
            else:
                self.space.workers[worker.name] = replace(worker, last_seen=clock.now())
        return await self.was_asked(worker.name)

    async def workers(self) -> list[WorkerRecord]:
        with self.space.lock:
            return sorted(self.space.workers.values(), key=lambda worker: worker.name)

    async def forget_workers(self, older_than: float) -> None:
        with self.space.lock:
            before, workers = clock.now() - older_than, self.space.workers
            self.space.workers = {name: worker for name, worker in workers.items() if worker.last_seen > before}


class ReferenceResultStore(ReferenceStore, TableResultStore):
    """Results in this process: `ReferenceResultStore("name")` shares them by name, with the queue of that name too."""

    async def hear(self, timeout: float) -> None:
        """There are no other processes."""
        await asyncio.sleep(timeout)


class ReferenceEventStore(ReferenceStore, BaseEventStorage):
    """Events in this process, oldest first: `ReferenceEventStore("name")` shares them by name."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        with self.space.lock:
            known = {id_ for _, id_, _ in self.space.events}
            for event in events:
                if event.id not in known:
                    insort(self.space.events, (event.time, event.id, event))
                    known.add(event.id)

    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        with self.space.lock:
            stored = self.space.events
            start = 0 if where.since is None else bisect_left(stored, (where.since,))
            end = len(stored) if where.until is None else bisect_left(stored, (where.until,))
            if cursor is not None and oldest_first:
                start = max(start, bisect_right(stored, place_of(cursor), key=_place))
            elif cursor is not None:
                end = min(end, bisect_left(stored, place_of(cursor)))
            matching = [row for row in stored[start:end] if matches(row[2], where)]
        page = (matching if oldest_first else matching[::-1])[:limit]
        more = len(matching) > limit
        return EventPage([event for _, _, event in page], cursor_at(*page[-1][:2]) if more else None)

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        with self.space.lock:
            gone = min(limit, bisect_left(self.space.events, (before,)))
            del self.space.events[:gone]
        return gone


def _place(row: tuple[float, str, TaskEvent]) -> tuple[float, str]:
    return row[:2]


class DictDocuments(Documents):
    """Documents in this process. There is nothing to open or to close."""

    atomic: ClassVar[bool] = True
    networked: ClassVar[bool] = False

    def __init__(self) -> None:
        self._location = f"dict:{new_id()}"
        self._lock = new_lock()
        self._versions = count(1)
        self._documents: dict[str, Document] = {}
        self._indexes: defaultdict[str, list[Entry]] = defaultdict(list)

    @property
    def location(self) -> str:
        return self._location

    async def connect(self) -> None:
        """Safe to repeat."""

    async def close(self) -> None:
        """Safe to repeat. The documents stay."""

    async def drop(self) -> None:
        """Safe to repeat."""
        with self._lock:
            self._documents.clear()
            self._indexes.clear()

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=False,
            survives_power_loss=False,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=self.atomic,
        )

    async def read(self, keys: Sequence[str]) -> list[Document | None]:
        with self._lock:
            return [self._documents.get(key) for key in keys]

    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        with self._lock:
            return [self._write_group(group) for group in groups]

    def _write_group(self, group: Sequence[Write]) -> bool:
        if not all(self._holds(write) for write in group):
            return False
        for write in group:
            self._write(write)
        return True

    def _holds(self, write: Write) -> bool:
        stored = self._documents.get(write.key)
        return write.always or (None if stored is None else stored.version) == write.if_version

    def _write(self, write: Write) -> None:
        if write.value is None:
            self._documents.pop(write.key, None)
        else:
            self._documents[write.key] = Document(write.value, next(self._versions))
        for entry in write.put:
            self._put(entry)
        for entry in write.drop:
            self._drop(entry)

    def _put(self, entry: Entry) -> None:
        index = self._indexes[entry.index]
        place = bisect_left(index, entry)
        if place == len(index) or index[place] != entry:
            index.insert(place, entry)

    def _drop(self, entry: Entry) -> None:
        index = self._indexes[entry.index]
        place = bisect_left(index, entry)
        if place < len(index) and index[place] == entry:
            del index[place]
        if not index:
            del self._indexes[entry.index]

    async def scan(
        self, index: str, *, after: Entry | None = None, until: bytes | None = None, limit: int, reverse: bool = False
    ) -> list[Entry]:
        with self._lock:
            entries = self._indexes.get(index, [])
            if reverse:
                end = len(entries) if after is None else bisect_left(entries, after)
                return entries[max(0, end - limit) : end][::-1]
            start = 0 if after is None else bisect_right(entries, after)
            found = entries[start : start + limit]
        return [entry for entry in found if until is None or entry.order[: len(until)] <= until]
