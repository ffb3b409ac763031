"""The task queue in a PostgreSQL schema: how tasks are added, and what is PostgreSQL's own of the contract."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
from omniq import clock
from omniq.backend import Configured, configured_by
from omniq.models.task import TERMINAL, TaskState
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.storage.base import Capability
from omniq.storage.records import NEW, Added, NewTask, TaskRecord
from omniq.storage.sql import TASKS, Given, Steps, awaiting, kinds, reads, texts, writes
from omniq.storage.sql.claiming import ScanPositions
from omniq.storage.sql.queue import Counter, SQLQueueStore, add_tasks, due_in, forget_workers
from omniq.storage.sql.results import replace_bodies
from omniq.storage.wakeups import News

from omniq_postgres import verbs
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.connection import PostgresStore
from omniq_postgres.dialect import Session, carry_out
from omniq_postgres.results import PostgresResultStore
from omniq_postgres.watching import NOTIFY, payload_of

if TYPE_CHECKING:
    from omniq_postgres.dialect import ForeignConnection

COPY_FROM = 50
"""Tasks from which on COPY is faster."""
_COPIED = ("id", "queue_name", "priority", "schedule_id", "name", "body")

_NEW = kinds(
    "id text, queue_name text, priority integer, given_run_at time, delay real, ttl real, schedule_id text, "
    "unique_key text, name text, body bytes, depends_on texts"
)
_PAST = kinds(
    "past text, past_created_at time, past_finished_at time, past_epoch integer, past_attempts integer, "
    "past_crashes integer"
)
"""What a task has besides that was in another store before."""
_INSERT = """
    with {given}, {clock}, timed as (
        select given.*, now, coalesce(given_run_at, now + delay) as run_at from clock, given),
    added as (
        insert into omniq.task (id, queue_name, state, priority, created_at, run_at, expires_at, schedule_id,
            unique_key, depends_on, name, body)
        select id, queue_name,
            case when depends_on is not null then 'waiting' when run_at <= now then 'pending' else 'scheduled' end,
            priority, now, run_at, run_at + ttl, schedule_id, unique_key, depends_on, name, body
        from timed
        on conflict do nothing
        returning id, depends_on),
    edges as (
        insert into omniq.edge (parent, child)
        select distinct unnest(depends_on), id from added where depends_on is not null
        on conflict do nothing)
    select id from added
"""


_INSERT_PAST = (
    _INSERT.replace("name, body)", "name, body, finished_at, epoch, attempts, crashes)")
    .replace("name, body\n", "name, body, past_finished_at, past_epoch, past_attempts, past_crashes\n")
    .replace("priority, now,", "priority, coalesce(past_created_at, now),")
    .replace("case when depends_on", "case when past <> 'pending' then past when past is null and depends_on")
)


def _insert(tasks: Sequence[NewTask]) -> Steps[set[str]]:
    """The ids of the tasks that were added: neither they nor their keys were there yet.

    They go in the order of their keys, so that two calls with the same ones don't wait for each other.
    """
    ordered = sorted(tasks, key=lambda task: task.unique or "")
    run_ats, keys = [task.run_at for task in ordered], [task.unique for task in ordered]
    given = Given.of(_NEW, ordered, given_run_at=run_ats, unique_key=keys)
    if all(task.past is None for task in ordered):
        return set((yield from texts(_INSERT, given)))
    return set((yield from texts(_INSERT_PAST, given.beside(_pasts(ordered)))))


def _pasts(tasks: Sequence[NewTask]) -> Given:
    pasts = [task.past for task in tasks]
    columns: list[list[Any]] = [
        [None if past is None else past.state for past in pasts],
        [None if past is None else past.created_at for past in pasts],
        [None if past is None else past.finished_at for past in pasts],
        [0 if past is None else past.epoch for past in pasts],
        [0 if past is None else past.attempts for past in pasts],
        [0 if past is None else past.crashes for past in pasts],
    ]
    return Given(_PAST, columns)


class PostgresQueueStore(PostgresStore, SQLQueueStore):
    """Tasks and schedules in a schema."""

    capabilities: ClassVar[frozenset[Capability]] = SQLQueueStore.capabilities | {
        Capability.PUSH,
        Capability.TRANSACTIONAL_ENQUEUE,
    }
    max_items = 5000

    def __init__(self, config: PostgresTaskQueueConfig) -> None:
        super().__init__(config)
        self._positions = ScanPositions()
        self._counter = Counter(verbs.COUNT, verbs.OLDEST_DUE)
        self._results = PostgresResultStore(config)

    extend = writes(awaiting(verbs.extend))
    replace_bodies = writes(partial(replace_bodies, TASKS))
    find = reads(verbs.find)
    _add = staticmethod(partial(add_tasks, insert=_insert))
    _settle = staticmethod(verbs.settle)

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        if not (_can_copy(tasks) and await self._connection.run(partial(_copy, tasks=tasks))):
            return await super().add(tasks)
        added = [NEW] * len(tasks)
        self._tell(News(due_in(tasks, added)), tasks=len(tasks))
        return added

    async def add_within(self, connection: ForeignConnection, tasks: Sequence[NewTask]) -> list[Added]:
        return await self._connection.join(connection, partial(self._add_and_tell, tasks=tasks))

    async def _add_and_tell(self, session: Session, tasks: Sequence[NewTask]) -> list[Added]:
        """Add, and notify everybody, this process too: all of it happens when the caller commits."""
        added = await carry_out(session, partial(self._add, tasks))
        payload = payload_of("", News(due_in(tasks, added)))
        await session.fetch(NOTIFY, self._settings.schema_name, payload)
        return added

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        is_called = self._connection.channel.look(queues)
        job = partial(verbs.claim, queues=queues, limit=limit, lease=lease, worker=worker, positions=self._positions)
        claimed = await self._connection.run(job)
        self._connection.idle.waits(worker, queues if is_called and len(claimed) < limit else None)
        if claimed.until_next is not None and claimed.until_next > 0:
            self.wakeups.tell(News(dict.fromkeys(queues, claimed.until_next)))
        return claimed

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        await self._write(partial(forget_workers, older_than))
        return await self._write(partial(verbs.purge, older_than, states, limit), atomic=True)

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        return await self._write(partial(verbs.delete, ids, states), atomic=True)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.channel.for_tasks(queues, timeout)


def _can_copy(tasks: Sequence[NewTask]) -> bool:
    """Whether `_copy` will do: what COPY doesn't bring, the table's defaults must."""
    return len(tasks) >= COPY_FROM and clock.offset() == 0 and all(map(_is_plain, tasks))


def _is_plain(task: NewTask) -> bool:
    is_due_now = task.run_at is None and task.delay == 0 and task.ttl is None
    return is_due_now and not task.depends_on and task.unique is None and task.past is None


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
