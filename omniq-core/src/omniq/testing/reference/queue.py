"""The reference store of tasks and schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from msgspec.structs import replace

from omniq import clock
from omniq.models.task import TaskState
from omniq.storage.base import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    Firing,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewBody,
    NewTask,
    QueueStats,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.storage.wakeups import News
from omniq.testing.reference.space import ReferenceStore


class ReferenceQueueStore(ReferenceStore, BaseTaskQueue):
    """Tasks and schedules in this process: `ReferenceQueueStore("name")` shares them by name.

    Any number of threads and event loops may use one store, or several of one name.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.UNIQUE}
    )

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
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
