"""The task queue in a SQLite file: how tasks are added, and what is SQLite's own of the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from omniq import clock
from omniq.backend import Configured, configured_by
from omniq.models.task import TERMINAL, TaskState
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.storage.channel import ALL
from omniq.storage.records import NewTask, TaskRecord
from omniq.storage.rules import new_record
from omniq.storage.sql import Given, Kinds, Steps, calling, do, kinds, reads, writes
from omniq.storage.sql.claiming import reap
from omniq.storage.sql.queue import Counter, SQLQueueStore, add_tasks, forget_workers, select_old
from omniq.storage.wakeups import News

from omniq_sqlite import verbs
from omniq_sqlite.codec import LARGE_BODY
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.connection import SQLiteStore
from omniq_sqlite.results import SQLiteResultStore
from omniq_sqlite.verbs import set_nameless_aside
from omniq_sqlite.watching import next_due

_NEW = kinds(
    "id text, queue_name text, state text, priority integer, created_at time, run_at time, expires_at time, "
    "depends_on texts, schedule_id text, name text, unique_key text, body bytes"
)
_PAST = kinds("finished_at time, epoch integer, attempts integer, crashes integer")
"""What a task has besides that was in another store before."""


def _insertion(columns: Kinds) -> str:
    names = ", ".join(name for name, _ in columns)
    return f"with {{given}} insert into omniq.task ({names}) select {names} from given"


_INSERT, _INSERT_PAST = _insertion(_NEW), _insertion(_NEW + _PAST)
_LARGE = kinds("id text, body bytes")
_INSERT_LARGE = "with {given} insert into omniq.large_body (task_id, body) select id, body from given"
_EDGE = kinds("parent text, child text")
_INSERT_EDGES = "with {given} insert or ignore into omniq.edge (parent, child) select parent, child from given"
_TAKEN = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)


def _insert(tasks: Sequence[NewTask]) -> Steps[Collection[str]]:
    """All of the tasks, or none if one is there already."""
    now = clock.now()
    records = [new_record(task, now) for task in tasks]
    columns: dict[str, list[Any]] = {"unique_key": [record.unique for record in records]}
    large = [record for record in records if len(record.body) > LARGE_BODY]
    if large:
        columns["body"] = [None if len(record.body) > LARGE_BODY else record.body for record in records]
    moved = any(task.past is not None for task in tasks)
    try:
        yield from do(_INSERT_PAST if moved else _INSERT, Given.of(_NEW + _PAST if moved else _NEW, records, **columns))
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode in _TAKEN:  # and SQLite has undone the statement
            return ()
        raise
    if large:
        yield from do(_INSERT_LARGE, Given.of(_LARGE, large))
    if edges := [(parent, record.id) for record in records for parent in record.depends_on]:
        yield from do(_INSERT_EDGES, Given(_EDGE, list(zip(*edges, strict=True))))
    return {record.id for record in records}


class SQLiteQueueStore(SQLiteStore, SQLQueueStore):
    """Tasks and schedules in a file."""

    def __init__(self, config: SQLiteTaskQueueConfig) -> None:
        super().__init__(config)
        self._idle = True
        """The last claim found nothing: look before the next one takes the write lock."""
        self._counter = Counter(verbs.COUNT, verbs.OLDEST)
        self._results = SQLiteResultStore(config)

    extend = writes(calling(verbs.extend_leases))
    _reap = staticmethod(partial(reap, choose=set_nameless_aside))
    replace_bodies = writes(calling(verbs.replace_task_bodies))
    find = reads(verbs.find_tasks)
    delete = writes(verbs.delete_tasks)
    _add = staticmethod(partial(add_tasks, insert=_insert))
    _settle = staticmethod(verbs.settle)

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        if self._idle and not await self._anything_due(queues):
            return []
        claim = partial(verbs.claim_tasks, limit=limit, lease=lease, worker=worker, max_bytes=self.max_bytes)
        claimed = await self._connection.write(partial(claim, queues=queues))
        self._idle = not claimed
        return claimed

    async def _anything_due(self, queues: Sequence[str]) -> bool:
        return min((await self._next_due(queues)).values(), default=1.0) <= 0.0

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        await self._write(partial(forget_workers, older_than))
        if not await self._read(partial(select_old, older_than, states, 1)):
            return 0
        return await self._write(partial(verbs.purge_tasks, older_than, states, limit))

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.wakeups.for_tasks(queues, timeout, self._next_due)

    async def _next_due(self, queues: Sequence[str]) -> dict[str, float]:
        return await self._connection.read(partial(next_due, queues=queues))

    def _tell(self, news: News, *, tasks: int = ALL) -> None:
        """Wake this process's waiters. Those elsewhere are the watcher's business."""
        if news.due and min(news.due.values()) <= 0.0:
            self._idle = False
        super()._tell(news, tasks=tasks)


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
