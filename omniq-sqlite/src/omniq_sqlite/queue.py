"""Tasks and schedules in a SQLite file, in the order of the contract.

Each method hands one job to the writer or the reader; the jobs are in `adding`, `claiming`, `settling`,
`finding` and `schedules`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from omniq import clock
from omniq.backend.component import Configured, configured_by
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.facade import TaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import (
    Added,
    Change,
    Changed,
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

from omniq_sqlite.adding import add_tasks
from omniq_sqlite.claiming import claim_tasks, extend_leases, held_leases, lapsed_leases, reap_tasks
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.connection import SQLiteStore
from omniq_sqlite.finding import count_tasks, fetch_children, find_tasks, purge_tasks, select_old
from omniq_sqlite.resigning import replace_task_bodies
from omniq_sqlite.results import SQLiteResultStore
from omniq_sqlite.schedules import delete_schedule, fetch_schedules, fire, put_schedule
from omniq_sqlite.settling import settle
from omniq_sqlite.watching import next_due
from omniq_sqlite.wire import fetch_tasks
from omniq_sqlite.workers import beat, fetch_workers, forget_workers

_PAUSE = "insert into paused_queue (queue_name) values (?) on conflict (queue_name) do nothing"
_RESUME = "delete from paused_queue where queue_name = ?"


class SQLiteQueueStore(SQLiteStore, BaseTaskQueue):
    """Tasks and schedules in a file."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ATOMIC_RESULTS, Capability.CROSS_PROCESS, Capability.PERSISTENT, Capability.PRIORITY}
    )

    def __init__(self, config: SQLiteTaskQueueConfig) -> None:
        super().__init__(config)
        self._idle = True
        """The last claim found nothing: look before the next one takes the write lock."""
        self._results = SQLiteResultStore(config)

    def result_storage(self) -> SQLiteResultStore:
        return self._results

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        if not tasks:
            return []
        added, any_due = await self._connection.write(partial(add_tasks, tasks=tasks))
        self._tell(any_due)
        return added

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        if limit < 1 or (self._idle and not await self._anything_due(queues)):
            return []
        job = partial(claim_tasks, queues=queues, limit=limit, lease=lease, worker=worker, max_bytes=self.max_bytes)
        claimed = await self._connection.write(job)
        self._idle = not claimed
        return claimed

    async def _anything_due(self, queues: Sequence[str]) -> bool:
        return min((await self._next_due(queues)).values(), default=1.0) <= 0.0

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        return await self._connection.write(partial(extend_leases, leases=leases, lease=lease)) if leases else []

    async def held(self, worker: str) -> list[Lease]:
        return await self._connection.read(partial(held_leases, worker=worker))

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        return await self._connection.read(partial(lapsed_leases, limit=limit, after=after))

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        await self._connection.write(partial(beat, worker=worker, leaving=leaving))

    async def workers(self) -> list[WorkerRecord]:
        return await self._connection.read(fetch_workers)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        reaped = await self._connection.write(partial(reap_tasks, leases=leases))
        self._tell(bool(reaped))
        return reaped

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        if not changes:
            return []
        settled = await self._connection.write(partial(settle, changes=changes))
        self._tell(settled.any_due)
        self.wakeups.tell(News(ended=[result.task_id for result in settled.results]))
        return settled.answers

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        return await self._connection.write(partial(replace_task_bodies, bodies=bodies)) if bodies else []

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        found = {task.id: task for task in await self._connection.read(partial(fetch_tasks, ids=ids, bodies=bodies))}
        return [found.get(id_) for id_ in ids]

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        job = partial(find_tasks, where=where, limit=limit, cursor=cursor, bodies=bodies)
        return await self._connection.read(job)

    async def stats(self) -> list[QueueStats]:
        return await self._connection.read(count_tasks)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        children = await self._connection.read(partial(fetch_children, ids=ids))
        return [children.get(id_, []) for id_ in ids]

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        await self._connection.write(partial(forget_workers, older_than=older_than))
        if not await self._connection.read(partial(select_old, older_than=older_than, limit=1)):
            return 0
        return await self._connection.write(partial(purge_tasks, older_than=older_than, limit=limit))

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        def job(connection: sqlite3.Connection) -> None:
            connection.execute(_PAUSE if paused else _RESUME, (queue_name,))

        await self._connection.write(job)
        self._tell(not paused)

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await self._connection.write(partial(put_schedule, schedule=schedule, if_version=if_version))

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        return await self._connection.read(partial(fetch_schedules, ids=ids, within=within))

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._connection.write(partial(delete_schedule, schedule_id=schedule_id))

    async def fire(self, schedule_id: str, *, if_version: int, next_run: float | None, task: NewTask) -> bool:
        job = partial(fire, schedule_id=schedule_id, if_version=if_version, next_run=next_run, task=task)
        fired, any_due = await self._connection.write(job)
        self._tell(any_due)
        return fired

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.wakeups.for_tasks(queues, timeout, self._next_due)

    async def _next_due(self, queues: Sequence[str]) -> dict[str, float]:
        """In how many seconds each queue has something to claim; paused and empty ones are left out."""
        due = await self._connection.read(partial(next_due, queues=queues))
        return {queue: at - clock.now() for queue, at in due.items()}

    def _tell(self, any_due: bool) -> None:
        """Wake this process's waiters at once. What is due later, or elsewhere, is the watcher's business."""
        if any_due:
            self._idle = False
            self.wakeups.tell(News(due=None))


class AsyncSQLiteTaskQueue(Configured, AsyncTaskQueue[SQLiteTaskQueueConfig]):
    """A task queue in a SQLite file. Takes the fields of `SQLiteTaskQueueConfig`."""

    @configured_by(SQLiteTaskQueueConfig)
    def __init__(self, config: SQLiteTaskQueueConfig) -> None:
        super().__init__(SQLiteQueueStore, config)


class SQLiteTaskQueue(Configured, TaskQueue):
    """`AsyncSQLiteTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(SQLiteTaskQueueConfig)
    def __init__(self, config: SQLiteTaskQueueConfig) -> None:
        super().__init__(AsyncSQLiteTaskQueue.from_config(config))
