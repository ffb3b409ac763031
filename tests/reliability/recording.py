"""A task queue's store that logs claims, renewals and settlements in the history on their way through."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Guarantees
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    Firing,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewTask,
    QueueStats,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)

from tests.reliability.history import History

ACCEPTED = (ChangeStatus.APPLIED, ChangeStatus.REPEATED)


def recording(store: BaseTaskQueue, history: History) -> RecordingQueue:
    """The store, recorded; it declares what the store declares."""
    recorder = type("Recording", (RecordingQueue,), {"capabilities": store.capabilities})
    made = recorder(store, history)
    assert isinstance(made, RecordingQueue)
    return made


class RecordingQueue(BaseTaskQueue):
    """Hands every call on. What is asked for is timed before, and logged after, the store has answered."""

    def __init__(self, store: BaseTaskQueue, history: History) -> None:
        self._store = store
        self._history = history
        self.networked = store.networked

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        asked_at = time.monotonic()
        records = await self._store.claim(queues, limit=limit, lease=lease, worker=worker)
        for record in records:
            self._history.claim(record.id, record.epoch, asked_at=asked_at)
        return records

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        asked_at = time.monotonic()
        statuses = await self._store.extend(leases, lease=lease)
        for each, status in zip(leases, statuses, strict=True):
            if status.held:
                self._history.beat(each.task_id, each.epoch, asked_at=asked_at)
        return statuses

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        outcomes = await self._store.transition(changes)
        for change, outcome in zip(changes, outcomes, strict=True):
            if _settles_a_claim(change):
                accepted = outcome.status in ACCEPTED
                self._history.settled(change.task_id, change.epoch or 0, change.to, accepted=accepted)
        return outcomes

    # ── handed on as they are ────────────────────────────────────────────────

    @property
    def location(self) -> str:
        return self._store.location

    def result_storage(self) -> BaseResultStorage | None:
        return self._store.result_storage()

    async def guarantees(self) -> Guarantees:
        return await self._store.guarantees()

    async def connect(self) -> None:
        await self._store.connect()

    async def close(self) -> None:
        await self._store.close()

    async def drop(self) -> None:
        await self._store.drop()

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await self._store.add(tasks)

    async def held(self, worker: str) -> list[Lease]:
        return await self._store.held(worker)

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        return await self._store.lapsed(limit=limit, after=after)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        return await self._store.reap(leases)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        return await self._store.beat(worker, leaving=leaving)

    async def inspect(self, worker: str) -> bool:
        return await self._store.inspect(worker)

    async def workers(self) -> list[WorkerRecord]:
        return await self._store.workers()

    async def now(self) -> float:
        return await self._store.now()

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        return await self._store.get(ids, bodies=bodies)

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        return await self._store.find(where, newest_first=newest_first, limit=limit, cursor=cursor, bodies=bodies)

    async def stats(self) -> list[QueueStats]:
        return await self._store.stats()

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        return await self._store.children(ids)

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        return await self._store.purge(older_than=older_than, states=states, limit=limit)

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        return await self._store.delete(ids, states=states)

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._store.pause(queue_name, paused=paused)

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await self._store.put_schedule(schedule, if_version=if_version)

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        return await self._store.schedules(ids, within=within)

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._store.delete_schedule(schedule_id)

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        return await self._store.fire(firings)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._store.wait(queues, timeout)


def _settles_a_claim(change: Change) -> bool:
    return change.epoch is not None and TaskState.RUNNING in change.from_states and not change.request_cancel
