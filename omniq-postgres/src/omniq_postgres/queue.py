"""Tasks and schedules in a PostgreSQL schema: the contract, and how new tasks are stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar

import asyncpg
from omniq import clock
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
    Firing,
    LapsedLease,
    NewTask,
    QueueStats,
    TaskRecord,
)
from omniq.storage.rules import judge
from omniq.storage.sql import schedules
from omniq.storage.sql.results import replace_bodies
from omniq.storage.sql.steps import Steps, ask
from omniq.storage.sql.store import reads, writes
from omniq.storage.sql.tables import TASKS
from omniq.storage.wakeups import News

from omniq_postgres import claiming, finding
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.connection import PostgresStore, Session
from omniq_postgres.dialect import carry_out
from omniq_postgres.results import PostgresResultStore
from omniq_postgres.settling import settle, with_children
from omniq_postgres.watching import NOTIFY, payload_of
from omniq_postgres.wire import CLOCK, array_literal, arrays, in_session

if TYPE_CHECKING:
    from omniq_postgres.opening import ForeignConnection

COPY_FROM = 50
"""Tasks from which on COPY is faster."""
_COPIED = ("id", "queue_name", "priority", "schedule_id", "name", "body")

_INSERT = f"""
    with {CLOCK}, given as (
        select u.*, now, coalesce(given_run_at, now + delay) as run_at
        from clock, unnest($2::text[], $3::text[], $4::smallint[], $5::float8[], $6::float8[], $7::float8[],
            $8::text[], $9::text[], $10::text[], $11::bytea[], $12::text[])
            as u (id, queue_name, priority, given_run_at, delay, ttl, schedule_id, unique_key, name, body, depends_on)),
    added as (
        insert into omniq.task (id, queue_name, state, priority, created_at, run_at, expires_at, schedule_id,
            unique_key, depends_on, name, body)
        select id, queue_name,
            case when depends_on is not null then 'waiting' when run_at <= now then 'pending' else 'scheduled' end,
            priority, now, run_at, run_at + ttl, schedule_id, unique_key, depends_on::text[], name, body
        from given
        on conflict do nothing
        returning id, depends_on),
    edges as (
        insert into omniq.edge (parent, child)
        select distinct unnest(depends_on), id from added where depends_on is not null
        on conflict do nothing)
    select id from added
"""
_KEEP_PARENTS = "select id from omniq.task where id = any($1::text[]) order by id for key share"
_EXISTING = "select id from omniq.task where id = any($1::text[])"
_HOLDERS = "select unique_key, id from omniq.task where unique_key = any($1::text[])"
_PAUSE = "insert into omniq.paused_queue (queue_name) values ($1) on conflict (queue_name) do nothing"
_RESUME = "delete from omniq.paused_queue where queue_name = $1"


def _now() -> Steps[float]:
    ((now,),) = yield from ask(("time",), "select {now}")
    return float(now)


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
            Capability.UNIQUE,
        }
    )
    max_items = 5000

    def __init__(self, config: PostgresTaskQueueConfig) -> None:
        super().__init__(config)
        self._bookmarks = claiming.Bookmarks()
        self._counts = finding.Counts()
        self._results = PostgresResultStore(config)

    def result_storage(self) -> PostgresResultStore:
        return self._results

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        if _can_copy(tasks) and await self._connection.run(partial(_copy, tasks=tasks)):
            added = [NEW] * len(tasks)
        else:
            added = await self._connection.run(partial(_add, tasks=tasks))
        self._connection.channel.tell(News(_due_in(tasks, added)))
        return added

    async def add_within(self, connection: ForeignConnection, tasks: Sequence[NewTask]) -> list[Added]:
        return await self._connection.join(connection, partial(self._add_and_tell, tasks=tasks))

    async def _add_and_tell(self, session: Session, tasks: Sequence[NewTask]) -> list[Added]:
        """Add, and notify everybody, this process too: all of it happens when the caller commits."""
        added = await _add(session, tasks)
        payload = payload_of("", News(_due_in(tasks, added)))
        await session.fetch(NOTIFY, self._settings.schema_name, payload)
        return added

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        job = partial(claiming.claim, queues=queues, limit=limit, lease=lease, worker=worker, bookmarks=self._bookmarks)
        claimed = await self._connection.run(job)
        if claimed.until_next is not None and claimed.until_next > 0:
            self.wakeups.tell(News(dict.fromkeys(queues, claimed.until_next)))
        return claimed

    extend = in_session(claiming.extend)
    held = in_session(claiming.held)
    lapsed = in_session(claiming.lapsed)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        reaped = await self._connection.run(partial(claiming.reap, leases=leases))
        self._connection.channel.tell(News({task.queue_name: 0.0 for task in reaped}))
        return reaped

    beat = writes(schedules.beat)
    workers = reads(schedules.workers)
    now = reads(_now)

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        settled = await self._connection.run(partial(settle, changes=changes))
        self._connection.channel.tell(News(settled.due, settled.ended))
        ids = [change.task_id for change in changes]
        parents = await self._connection.run(partial(with_children, ids=ids))
        return [Changed(settled.statuses[id_], id_ in parents) for id_ in ids]

    replace_bodies = writes(partial(replace_bodies, TASKS))

    get = in_session(finding.get)
    find = in_session(finding.find)
    children = in_session(finding.children)
    purge = in_session(finding.purge)

    async def stats(self) -> list[QueueStats]:
        return await self._connection.run(self._counts.stats)

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        sql = _PAUSE if paused else _RESUME
        await self._connection.run(lambda session: session.fetch(sql, queue_name))
        self._connection.channel.tell(News({} if paused else {queue_name: 0.0}))

    put_schedule = writes(schedules.put_schedule)
    delete_schedule = writes(schedules.delete_schedule)
    schedules = reads(schedules.schedules)

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        fired = await self._connection.run(partial(_fire, firings=firings))
        tasks = [firing.task for firing, done in zip(firings, fired, strict=True) if done]
        self._connection.channel.tell(News(_due_in(tasks, [NEW] * len(tasks))))
        return fired

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.channel.for_tasks(queues, timeout)


def _can_copy(tasks: Sequence[NewTask]) -> bool:
    """Whether `_copy` will do: what COPY doesn't bring, the table's defaults must."""
    return len(tasks) >= COPY_FROM and clock.offset() == 0 and all(map(_is_plain, tasks))


def _is_plain(task: NewTask) -> bool:
    return task.run_at is None and task.delay == 0 and task.ttl is None and not task.depends_on and task.unique is None


async def _copy(session: Session, tasks: Sequence[NewTask]) -> bool:
    """Add tasks that are due now and have no parents, twice as fast; False if one is there already, and adds none."""
    rows = map(attrgetter(*_COPIED), tasks)
    try:
        await session.connection.copy_records_to_table(
            "task", schema_name=session.schema, columns=_COPIED, records=rows
        )
    except asyncpg.UniqueViolationError:
        return False
    return True


async def _add(session: Session, tasks: Sequence[NewTask]) -> list[Added]:
    """What became of each task: where all is well, one statement tells."""
    added = set() if any(task.depends_on for task in tasks) else await _insert(session, tasks)
    left = [task for task in tasks if task.id not in added]
    judged = iter(await _add_judged(session, left) if left else ())
    return [NEW if task.id in added else next(judged) for task in tasks]


async def _add_judged(session: Session, tasks: Sequence[NewTask]) -> list[Added]:
    """Look at what is there, decide and add, until nobody adds the same id or key in between."""
    while True:
        transaction = session.connection.transaction()
        await transaction.start()
        verdicts = await _judge(session, tasks)
        fresh = [task for task, verdict in zip(tasks, verdicts, strict=True) if verdict is NEW]
        if len(await _insert(session, fresh)) == len(fresh):
            await transaction.commit()
            return verdicts
        await transaction.rollback()


async def _judge(session: Session, tasks: Sequence[NewTask]) -> list[Added]:
    """What is to become of each task.

    Until the transaction ends, the parents can't be purged, but they can be claimed, renewed and ended: a caller
    may have its transaction open for long.
    """
    parents = {parent for task in tasks for parent in task.depends_on}
    keys = [task.unique for task in tasks if task.unique is not None]
    rows = await session.fetch(_KEEP_PARENTS, list(parents)) if parents else []
    rows += await session.fetch(_EXISTING, [task.id for task in tasks])
    holders = {row[0]: row[1] for row in await session.fetch(_HOLDERS, keys)} if keys else {}
    return judge(tasks, {row["id"] for row in rows}, holders)


async def _insert(session: Session, tasks: Sequence[NewTask]) -> set[str]:
    """The ids of the tasks that were added: neither they nor their keys were there yet."""
    ordered = sorted(tasks, key=_key)
    columns = arrays(
        ordered,
        *("id", "queue_name", "priority", "run_at", "delay", "ttl", "schedule_id", "unique", "name", "body"),
    )
    parents = [array_literal(task.depends_on) for task in ordered]
    return {row[0] for row in await session.fetch(_INSERT, clock.offset(), *columns, parents)}


def _key(task: NewTask) -> str:
    """What tasks are added in the order of, so that two calls with the same keys don't wait for each other."""
    return task.unique or ""


def _due_in(tasks: Sequence[NewTask], added: Sequence[Added]) -> dict[str, float]:
    """The queues that got tasks, and in about how many seconds the first of those is due."""
    due: dict[str, float] = {}
    now = clock.now()
    for task, verdict in zip(tasks, added, strict=True):
        if verdict is NEW and not task.depends_on:
            seconds = task.delay if task.run_at is None else task.run_at - now
            due[task.queue_name] = min(seconds, due.get(task.queue_name, seconds))
    return due


async def _fire(session: Session, firings: Sequence[Firing]) -> list[bool]:
    """Whether this call fired each schedule."""
    async with session.connection.transaction():
        fired = await carry_out(session, partial(schedules.advance, firings))
        tasks = [firing.task for firing in firings if firing.schedule_id in fired]
        if tasks:
            await _add(session, tasks)
        return [firing.schedule_id in fired for firing in firings]


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
