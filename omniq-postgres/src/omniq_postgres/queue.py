"""Tasks and schedules in a PostgreSQL schema, in the order of the contract.

Each method hands one job to a session; the jobs are in `adding`, `claiming`, `settling`, `finding` and `schedules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from omniq.backend.component import Configured, configured_by
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.facade import TaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import (
    NEW,
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

from omniq_postgres.adding import add_tasks, can_copy, copy_tasks, due_in
from omniq_postgres.claiming import (
    Bookmarks,
    claim_tasks,
    extend_leases,
    held_leases,
    lapsed_leases,
    reap_tasks,
)
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.connection import PostgresStore, Session
from omniq_postgres.finding import count_tasks, fetch_children, find_tasks, purge_tasks
from omniq_postgres.resigning import replace_task_bodies
from omniq_postgres.results import PostgresResultStore
from omniq_postgres.schedules import delete_schedule, fetch_schedules, fire, put_schedule
from omniq_postgres.settling import settle, with_children
from omniq_postgres.watching import NOTIFY, payload_of
from omniq_postgres.wire import fetch_tasks
from omniq_postgres.workers import beat, fetch_workers, forget_workers, server_now

if TYPE_CHECKING:
    from omniq_postgres.opening import ForeignConnection

_PAUSE = "insert into omniq.paused_queue (queue_name) values ($1) on conflict (queue_name) do nothing"
_RESUME = "delete from omniq.paused_queue where queue_name = $1"


class PostgresQueueStore(PostgresStore, BaseTaskQueue):
    """Tasks and schedules in a schema."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ATOMIC_RESULTS,
            Capability.CROSS_PROCESS,
            Capability.PERSISTENT,
            Capability.PRIORITY,
            Capability.PUSH,
            Capability.TRANSACTIONAL_ENQUEUE,
        }
    )

    add_batch = 5000

    def __init__(self, config: PostgresTaskQueueConfig) -> None:
        super().__init__(config)
        self._bookmarks = Bookmarks()
        self._results = PostgresResultStore(config)

    def result_storage(self) -> PostgresResultStore:
        return self._results

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        if not tasks:
            return []
        if can_copy(tasks) and await self._connection.run(partial(copy_tasks, tasks=tasks)):
            added = [NEW] * len(tasks)
        else:
            added = await self._connection.run(partial(add_tasks, tasks=tasks))
        self._connection.channel.tell(News(due_in(tasks, added)))
        return added

    async def add_within(self, connection: ForeignConnection, tasks: Sequence[NewTask]) -> list[Added]:
        return await self._connection.join(connection, partial(self._add_and_tell, tasks=tasks)) if tasks else []

    async def _add_and_tell(self, session: Session, tasks: Sequence[NewTask]) -> list[Added]:
        """Add, and notify everybody, this process too: all of it happens when the caller commits."""
        added = await add_tasks(session, tasks)
        payload = payload_of("", News(due_in(tasks, added)))
        await session.fetch(NOTIFY, self._settings.schema_name, payload)
        return added

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        if limit < 1 or not queues:
            return []
        job = partial(
            claim_tasks,
            queues=list(dict.fromkeys(queues)),
            limit=limit,
            lease=lease,
            worker=worker,
            bookmarks=self._bookmarks,
        )
        claimed = await self._connection.run(job)
        if claimed.until_next is not None and claimed.until_next > 0:
            self.wakeups.tell(News(dict.fromkeys(queues, claimed.until_next)))
        return claimed

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        return await self._connection.run(partial(extend_leases, leases=leases, lease=lease)) if leases else []

    async def held(self, worker: str) -> list[Lease]:
        return await self._connection.run(partial(held_leases, worker=worker))

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        return await self._connection.run(partial(lapsed_leases, limit=limit, after=after))

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        await self._connection.run(partial(beat, worker=worker, leaving=leaving))

    async def workers(self) -> list[WorkerRecord]:
        return await self._connection.run(fetch_workers)

    async def now(self) -> float:
        return await self._connection.run(server_now)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        reaped = await self._connection.run(partial(reap_tasks, leases=leases))
        self._connection.channel.tell(News({task.queue_name: 0.0 for task in reaped}))
        return reaped

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        if not changes:
            return []
        settled = await self._connection.run(partial(settle, changes=changes))
        self._connection.channel.tell(News(settled.due, settled.ended))
        parents = await self._connection.run(partial(with_children, ids=[change.task_id for change in changes]))
        return [
            Changed(status, change.task_id in parents) for status, change in zip(settled.statuses, changes, strict=True)
        ]

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        return await self._connection.run(partial(replace_task_bodies, bodies=bodies)) if bodies else []

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        found = await self._connection.run(partial(fetch_tasks, ids=ids, bodies=bodies)) if ids else {}
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
        return await self._connection.run(job)

    async def stats(self) -> list[QueueStats]:
        return await self._connection.run(count_tasks)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        children = await self._connection.run(partial(fetch_children, ids=ids)) if ids else {}
        return [children.get(id_, []) for id_ in ids]

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        await self._connection.run(partial(forget_workers, older_than=older_than))
        return await self._connection.run(partial(purge_tasks, older_than=older_than, limit=limit))

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        async def job(session: Session) -> None:
            await session.fetch(_PAUSE if paused else _RESUME, queue_name)

        await self._connection.run(job)
        self._connection.channel.tell(News({} if paused else {queue_name: 0.0}))

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await self._connection.run(partial(put_schedule, schedule=schedule, if_version=if_version))

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        return await self._connection.run(partial(fetch_schedules, ids=ids, within=within))

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._connection.run(partial(delete_schedule, schedule_id=schedule_id))

    async def fire(self, schedule_id: str, *, if_version: int, next_run: float | None, task: NewTask) -> bool:
        job = partial(fire, schedule_id=schedule_id, if_version=if_version, next_run=next_run, task=task)
        fired = await self._connection.run(job)
        if fired:
            self._connection.channel.tell(News(due_in([task], [NEW])))
        return fired

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.channel.for_tasks(queues, timeout)


class AsyncPostgresTaskQueue(Configured, AsyncTaskQueue[PostgresTaskQueueConfig]):
    """A task queue in a PostgreSQL schema. Takes the fields of `PostgresTaskQueueConfig`."""

    @configured_by(PostgresTaskQueueConfig)
    def __init__(self, config: PostgresTaskQueueConfig) -> None:
        super().__init__(PostgresQueueStore, config)


class PostgresTaskQueue(Configured, TaskQueue):
    """`AsyncPostgresTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(PostgresTaskQueueConfig)
    def __init__(self, config: PostgresTaskQueueConfig) -> None:
        super().__init__(AsyncPostgresTaskQueue.from_config(config))
