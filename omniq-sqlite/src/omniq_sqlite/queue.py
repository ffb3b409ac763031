"""Tasks and schedules in a SQLite file: the contract, and how tasks are added."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from omniq import clock
from omniq.backend.component import Configured, configured_by
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.facade import TaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import NEW, Added, Change, Changed, Firing, LapsedLease, NewTask, QueueStats, TaskRecord
from omniq.storage.rules import judge, new_record
from omniq.storage.sql import schedules
from omniq.storage.sql import store as sql
from omniq.storage.wakeups import News

from omniq_sqlite import claiming, finding, settling
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.connection import SQLiteStore, reads, writes
from omniq_sqlite.dialect import carry_out
from omniq_sqlite.results import SQLiteResultStore
from omniq_sqlite.watching import next_due
from omniq_sqlite.wire import (
    LARGE_BODY,
    Bodies,
    body_at,
    encode,
    fetch_rows,
    fetch_texts,
    maybe_ticks,
    time_at,
    to_ticks,
)

_INSERT = f"""
    with row as materialized (select value from json_each(?1))
    insert into task (id, queue_name, state, priority, created_at, run_at, expires_at, depends_on, schedule_id, name,
        unique_key, body)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, {time_at(4)}, {time_at(5)}, {time_at(6)},
        value ->> 7, value ->> 8, value ->> 9, value ->> 10, {body_at(11)}
    from row
"""
_INSERT_EDGES = "insert or ignore into edge (parent, child) select value ->> 0, value ->> 1 from json_each(?)"
_KNOWN = "select id from task where id in (select value from json_each(?))"
_HOLDERS = "select unique_key, id from task where unique_key in (select value from json_each(?))"
_TAKEN = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)
_PAUSE = "insert or ignore into paused_queue (queue_name) values (?)"
_RESUME = "delete from paused_queue where queue_name = ?"


def add_tasks(connection: sqlite3.Connection, tasks: Sequence[NewTask]) -> tuple[list[Added], bool]:
    """What became of each task, and whether one of them is due."""
    now = clock.now()
    if not any(task.depends_on for task in tasks):
        try:
            return [NEW] * len(tasks), _insert(connection, tasks, now)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode not in _TAKEN:
                raise  # else some are there already, and SQLite has undone the statement
    added = _judge(connection, tasks)
    return added, _insert(connection, [task for task, a in zip(tasks, added, strict=True) if a is NEW], now)


def fire_schedules(connection: sqlite3.Connection, firings: Sequence[Firing]) -> tuple[list[bool], bool]:
    """Which schedules this call fired, and whether one of their tasks is due."""
    advanced = carry_out(connection, partial(schedules.advance, firings))
    fired = [firing.schedule_id in advanced for firing in firings]
    _, any_due = add_tasks(connection, [firing.task for firing, done in zip(firings, fired, strict=True) if done])
    return fired, any_due


def _judge(connection: sqlite3.Connection, tasks: Sequence[NewTask]) -> list[Added]:
    ids = {task.id for task in tasks}.union(*(task.depends_on for task in tasks))
    keys = [task.unique for task in tasks if task.unique is not None]
    known = set(fetch_texts(connection, _KNOWN, encode(ids)))
    return judge(tasks, known, dict(fetch_rows(connection, 2, _HOLDERS, encode(keys))))


def _insert(connection: sqlite3.Connection, tasks: Sequence[NewTask], now: float) -> bool:
    """Whether one of them is due."""
    records = [new_record(task, now) for task in tasks]
    bodies = Bodies()
    rows = encode([_row(record, bodies) for record in records])
    connection.execute(_INSERT, (rows, bodies.joined()))
    connection.executemany(settling.INSERT_LARGE, [(r.id, r.body) for r in records if len(r.body) > LARGE_BODY])
    if edges := [(parent, record.id) for record in records for parent in record.depends_on]:
        connection.execute(_INSERT_EDGES, (encode(edges),))
    return any(record.state is TaskState.PENDING for record in records)


def _row(record: TaskRecord, bodies: Bodies) -> tuple[object, ...]:
    return (
        record.id,
        record.queue_name,
        record.state,
        record.priority,
        to_ticks(record.created_at),
        to_ticks(record.run_at),
        maybe_ticks(record.expires_at),
        record.depends_on or None,
        record.schedule_id,
        record.name,
        record.unique,
        *(bodies.place(record.body) if len(record.body) <= LARGE_BODY else (None, None)),
    )


class SQLiteQueueStore(SQLiteStore, BaseTaskQueue):
    """Tasks and schedules in a file."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ATOMIC_RESULTS,
            Capability.CROSS_PROCESS,
            Capability.PERSISTENT,
            Capability.PRIORITY,
            Capability.UNIQUE,
        }
    )

    def __init__(self, config: SQLiteTaskQueueConfig) -> None:
        super().__init__(config)
        self._idle = True
        """The last claim found nothing: look before the next one takes the write lock."""
        self._counter = finding.Counter()
        self._results = SQLiteResultStore(config)

    def result_storage(self) -> SQLiteResultStore:
        return self._results

    extend = writes(claiming.extend_leases)
    held = reads(claiming.held_leases)
    lapsed = reads(claiming.lapsed_leases)
    replace_bodies = writes(settling.replace_task_bodies)
    get = reads(finding.get_tasks)
    find = reads(finding.find_tasks)
    children = reads(finding.fetch_children)
    beat = sql.writes(schedules.beat)
    workers = sql.reads(schedules.workers)
    put_schedule = sql.writes(schedules.put_schedule)
    delete_schedule = sql.writes(schedules.delete_schedule)
    schedules = sql.reads(schedules.schedules)

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        added, any_due = await self._connection.write(partial(add_tasks, tasks=tasks))
        self._tell_due(any_due)
        return added

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        if self._idle and not await self._anything_due(queues):
            return []
        claim = partial(claiming.claim_tasks, limit=limit, lease=lease, worker=worker, max_bytes=self.max_bytes)
        claimed = await self._connection.write(partial(claim, queues=queues))
        self._idle = not claimed
        return claimed

    async def _anything_due(self, queues: Sequence[str]) -> bool:
        return min((await self._next_due(queues)).values(), default=1.0) <= 0.0

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        reaped = await self._connection.write(partial(claiming.reap_tasks, leases=leases))
        self._tell_due(bool(reaped))
        return reaped

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        settled = await self._connection.write(partial(settling.settle, changes=changes))
        self._tell_due(settled.any_due)
        self.wakeups.tell(News(ended=[result.task_id for result in settled.results]))
        return settled.answers

    async def stats(self) -> list[QueueStats]:
        return await self._connection.read(self._counter.stats)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        await self._write(partial(schedules.forget_workers, older_than))
        if not await self._connection.read(partial(finding.any_old, older_than=older_than)):
            return 0
        return await self._connection.write(partial(finding.purge_tasks, older_than=older_than, limit=limit))

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        sql = _PAUSE if paused else _RESUME
        await self._connection.write(lambda connection: connection.execute(sql, (queue_name,)))
        self._tell_due(not paused)

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        fired, any_due = await self._connection.write(partial(fire_schedules, firings=firings))
        self._tell_due(any_due)
        return fired

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.wakeups.for_tasks(queues, timeout, self._next_due)

    async def _next_due(self, queues: Sequence[str]) -> dict[str, float]:
        """In how many seconds each queue has something to claim; paused and empty ones are left out."""
        due = await self._connection.read(partial(next_due, queues=queues))
        return {queue: at - clock.now() for queue, at in due.items()}

    def _tell_due(self, any_due: bool) -> None:
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
