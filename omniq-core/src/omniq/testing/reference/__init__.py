"""The contract in one process, built on its rules: to read, to test with, and to build an in-memory backend on."""

from __future__ import annotations

import asyncio
import math
import threading
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import count
from typing import ClassVar, TypeAlias

from msgspec.structs import replace

from omniq import clock
from omniq.models.task import TaskEvent, TaskState, new_id
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Guarantees, Store
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    EventFilter,
    EventPage,
    Firing,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewBody,
    NewTask,
    QueueStats,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.storage.rules import cursor_at, matches, place_of
from omniq.storage.wakeups import News
from omniq.testing.reference.tables import ResultTable, ScheduleTable, TaskTable

_named: dict[str, ReferenceSpace] = {}


_named_lock = threading.Lock()


class ReferenceSpace:
    """Tasks, schedules, results and events at one location, behind one lock.

    Whoever touches the tables holds `lock`, which is never held across an `await`.
    """

    def __init__(self, location: str | None = None) -> None:
        self.location = location or f"reference:{new_id()}"
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
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

    async def drop(self) -> None:
        """Safe to repeat."""
        with self.space.lock:
            self.space.clear()


class ReferenceQueueStore(ReferenceStore, BaseTaskQueue):
    """Tasks and schedules in this process: `ReferenceQueueStore("name")` shares them by name.

    Any number of threads and event loops may use one store, or several of one name.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.UNIQUE}
    )

    def result_storage(self) -> BaseResultStorage:
        return ReferenceResultStore(self.space)

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        self._check_asked(tasks)
        with self.space.lock:
            now = clock.now()
            added = self.space.tasks.add(tasks, now)
        self.wakeups.tell(News(due=None))
        return added

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        with self.space.lock:
            now, size = clock.now(), self.max_bytes
            return self.space.tasks.claim(queues, now, limit=limit, max_bytes=size, lease=lease, worker=worker)

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        with self.space.lock:
            until = clock.now() + lease
            return [self.space.tasks.extend(held, until) for held in leases]

    async def held(self, worker: str) -> list[Lease]:
        with self.space.lock:
            return self.space.tasks.held(worker)

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        with self.space.lock:
            return self.space.tasks.lapsed(clock.now(), limit, after)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        with self.space.lock:
            if leaving:
                self.space.tasks.workers.pop(worker.name, None)
            else:
                self.space.tasks.workers[worker.name] = replace(worker, last_seen=clock.now())

    async def workers(self) -> list[WorkerRecord]:
        with self.space.lock:
            return sorted(self.space.tasks.workers.values(), key=lambda worker: worker.name)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        with self.space.lock:
            back = self.space.tasks.reap(leases, clock.now())
        if back:
            self.wakeups.tell(News(due=None))
        return list(map(_bodiless, back))

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        with self.space.lock:
            now = clock.now()
            changed = [self._change(change, now) for change in changes]
        if any(change.to is TaskState.PENDING for change in changes):
            self.wakeups.tell(News(due=None))
        self.wakeups.tell(News(ended=[change.task_id for change in changes if change.result is not None]))
        return changed

    def _change(self, change: Change, now: float) -> Changed:
        status = self.space.tasks.change(change, now)
        if status is ChangeStatus.APPLIED and change.result is not None:
            self.space.results.put(change.result, now)
        return Changed(status, bool(self.space.tasks.children(change.task_id)))

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        with self.space.lock:
            return [self.space.tasks.replace_body(new) for new in bodies]

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        with self.space.lock:
            found = [self.space.tasks.get(id_) for id_ in ids]
        return [record if bodies or record is None else _bodiless(record) for record in found]

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        with self.space.lock:
            now = clock.now()
            page = self.space.tasks.find(where, now, newest_first=newest_first, limit=limit, cursor=cursor)
        return page if bodies else TaskPage(list(map(_bodiless, page.tasks)), page.cursor)

    async def stats(self) -> list[QueueStats]:
        with self.space.lock:
            return self.space.tasks.stats(clock.now())

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        with self.space.lock:
            return [self.space.tasks.children(id_) for id_ in ids]

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        with self.space.lock:
            return self.space.tasks.purge(clock.now() - older_than, limit)

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        with self.space.lock:
            self.space.tasks.pause(queue_name, paused=paused)
        self.wakeups.tell(News(due=None))

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        with self.space.lock:
            return self.space.schedules.put(schedule, if_version)

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        with self.space.lock:
            found = self.space.schedules.find(ids)
        return [row for row in found if within is None or _is_due(row, clock.now() + within)]

    async def delete_schedule(self, schedule_id: str) -> bool:
        with self.space.lock:
            return self.space.schedules.delete(schedule_id)

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        with self.space.lock:
            fired = [self._fire(firing) for firing in firings]
        self.wakeups.tell(News(due=None))
        return fired

    def _fire(self, firing: Firing) -> bool:
        schedule = self.space.schedules.get(firing.schedule_id, firing.if_version)
        if schedule is None:
            return False
        self.space.tasks.add([firing.task], clock.now())
        return self.space.schedules.put(replace(schedule, next_run=firing.next_run), firing.if_version)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        """Also returns when a scheduled task of these queues becomes due."""
        await self.wakeups.for_tasks(queues, timeout, self._next_due)

    async def _next_due(self, queues: Sequence[str]) -> dict[str, float]:
        with self.space.lock:
            due = {queue: self.space.tasks.next_due([queue]) - clock.now() for queue in queues}
        return {queue: seconds for queue, seconds in due.items() if seconds < math.inf}


def _bodiless(record: TaskRecord) -> TaskRecord:
    return replace(record, body=b"")


def _is_due(schedule: ScheduleRecord, by: float) -> bool:
    return not schedule.paused and schedule.next_run is not None and schedule.next_run <= by


class ReferenceResultStore(ReferenceStore, BaseResultStorage):
    """Results in this process: `ReferenceResultStore("name")` shares them by name, with the queue of that name too."""

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        with self.space.lock:
            now = clock.now()
            stored = [self.space.results.put(record, now) for record in records]
        self.wakeups.tell(News(ended=[record.task_id for record in records]))
        return stored

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        with self.space.lock:
            return [self.space.results.replace_body(new) for new in bodies]

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        with self.space.lock:
            now = clock.now()
            return [self.space.results.get(id_, now) for id_ in ids]

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        with self.space.lock:
            found = self.space.results.find(schedule_id, clock.now())
        return (found[::-1] if newest_first else found)[:limit]

    async def purge(self, *, limit: int = 1000) -> int:
        with self.space.lock:
            return self.space.results.purge(clock.now(), limit)

    async def hear(self, timeout: float) -> None:
        """There are no other processes."""
        await asyncio.sleep(timeout)


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
