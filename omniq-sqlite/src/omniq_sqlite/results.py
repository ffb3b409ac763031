"""How tasks ended, or how far they have come, in the table `result`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import ClassVar, Final

from omniq import clock
from omniq.backend.component import Configured, configured_by
from omniq.models.state import TaskState
from omniq.results.engine import AsyncResultStorage
from omniq.results.facade import ResultStorage
from omniq.storage.capabilities import Capability
from omniq.storage.damage import result_of
from omniq.storage.records import MAX_COUNT, NewBody, ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.rules import gives_way
from omniq.storage.wakeups import News

from omniq_sqlite.config import SQLiteResultStorageConfig
from omniq_sqlite.connection import SQLiteStore, reads, writes
from omniq_sqlite.wire import Bodies, Table, body_at, encode, fetch_rows, fetch_texts, maybe_ticks, time_at

RESULTS: Final = Table[str, ResultRecord](
    "result", "task_id", ResultRecord, result_of, {"ttl": "round(expires_at - finished_at, 6)"}
)
_STORED = f"""
    select task_id, cast(epoch as integer), status is 'running' from result
    where epoch <= {MAX_COUNT} and task_id in (select value from json_each(?))
"""
_UPSERT = f"""
    with row as materialized (select value from json_each(?1))
    insert into result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, ?3, {time_at(4)}, {body_at(5)} from row where true
    on conflict (task_id) do update set epoch = excluded.epoch, status = excluded.status,
        schedule_id = excluded.schedule_id, finished_at = excluded.finished_at, expires_at = excluded.expires_at,
        body = excluded.body
    where (excluded.epoch, excluded.status <> 'running') >= (result.epoch, result.status <> 'running')
        or result.epoch > {MAX_COUNT}
"""
"""As `rules.gives_way` decides."""
_REPLACE = "update result set body = ? where task_id = ? and body = ?"
_OF_SCHEDULE = """
    select task_id from result where schedule_id = ?1 and (expires_at is null or expires_at > ?2)
    order by finished_at {0}, task_id {0} limit ?3
"""
_ANY_EXPIRED = "select exists (select 1 from result where expires_at <= ?)"
_PURGE = "delete from result where task_id in (select task_id from result where expires_at <= ? limit ?)"


def store_results(connection: sqlite3.Connection, records: Sequence[ResultRecord], now: float) -> None:
    """Store the records to which the stored ones give way."""
    bodies = Bodies()
    rows = encode([_row(record, now, bodies) for record in records])
    connection.execute(_UPSERT, (rows, bodies.joined(), now))


def _row(record: ResultRecord, now: float, bodies: Bodies) -> tuple[object, ...]:
    expires_at = maybe_ticks(None if record.ttl is None else now + record.ttl)
    return (record.task_id, record.epoch, record.status, record.schedule_id, expires_at, *bodies.place(record.body))


def put_results(connection: sqlite3.Connection, records: Sequence[ResultRecord]) -> list[bool]:
    """As `BaseResultStorage.put`."""
    ids = encode([record.task_id for record in records])
    stored = {
        id_: ResultRecord(task_id=id_, epoch=epoch, status=TaskState.RUNNING if running else TaskState.ERROR, body=b"")
        for id_, epoch, running in fetch_rows(connection, 3, _STORED, ids)
    }
    store_results(connection, records, clock.now())
    return [r.task_id not in stored or gives_way(stored[r.task_id], r) for r in records]


def get_results(connection: sqlite3.Connection, ids: Sequence[str]) -> list[ResultRecord | None]:
    """As `BaseResultStorage.get`."""
    now = clock.now()
    found = RESULTS.fetch(connection, ids)
    return [None if r is None or (r.expires_at is not None and r.expires_at <= now) else r for r in found]


def find_results(
    connection: sqlite3.Connection, schedule_id: str, *, newest_first: bool = True, limit: int = 100
) -> list[ResultRecord]:
    """As `BaseResultStorage.find`."""
    sql = _OF_SCHEDULE.format("desc" if newest_first else "asc")
    ids = fetch_texts(connection, sql, schedule_id, clock.now(), limit)
    return [record for record in RESULTS.fetch(connection, ids) if record is not None]


def replace_result_bodies(connection: sqlite3.Connection, bodies: Sequence[NewBody]) -> list[bool]:
    """As `BaseResultStorage.replace_bodies`."""
    return [connection.execute(_REPLACE, (new.body, new.task_id, new.old)).rowcount == 1 for new in bodies]


class SQLiteResultStore(SQLiteStore, BaseResultStorage):
    """Results in a file, by default the one in which the queue is."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    get = reads(get_results)
    find = reads(find_results)
    replace_bodies = writes(replace_result_bodies)

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        stored = await self._connection.write(lambda connection: put_results(connection, records))
        self.wakeups.tell(News(ended=[r.task_id for r, done in zip(records, stored, strict=True) if done]))
        return stored

    async def purge(self, *, limit: int = 1000) -> int:
        now = clock.now()
        (expired,) = await self._connection.read(lambda connection: connection.execute(_ANY_EXPIRED, (now,)).fetchone())
        if not expired:
            return 0
        return await self._connection.write(lambda connection: connection.execute(_PURGE, (now, limit)).rowcount)

    async def hear(self, timeout: float) -> None:
        await self._connection.hear(timeout)


class AsyncSQLiteResultStorage(Configured, AsyncResultStorage[SQLiteResultStorageConfig]):
    """Results in a SQLite file. Takes the fields of `SQLiteResultStorageConfig`."""

    @configured_by(SQLiteResultStorageConfig)
    def __init__(self, config: SQLiteResultStorageConfig) -> None:
        super().__init__(SQLiteResultStore, config)


class SQLiteResultStorage(Configured, ResultStorage):
    """`AsyncSQLiteResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(SQLiteResultStorageConfig)
    def __init__(self, config: SQLiteResultStorageConfig) -> None:
        super().__init__(AsyncSQLiteResultStorage.from_config(config))
