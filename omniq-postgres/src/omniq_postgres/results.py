"""How tasks ended, in the table `result`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import ClassVar

import asyncpg
import msgspec
from msgspec.structs import replace
from omniq import clock
from omniq.backend.component import Configured, configured_by
from omniq.batching import parts
from omniq.results.engine import AsyncResultStorage
from omniq.results.facade import ResultStorage
from omniq.storage.capabilities import Capability
from omniq.storage.damage import result_of
from omniq.storage.records import MAX_COUNT, NewBody, ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.wakeups import News

from omniq_postgres.config import PostgresResultStorageConfig
from omniq_postgres.connection import PostgresStore
from omniq_postgres.wire import CLOCK, NOW, arrays, replace_bodies

LARGE = 64 * 1024
"""Bytes of a body from which on it is read apart, so that no answer becomes giant."""

IF_IT_GIVES_WAY = f"""
        on conflict (task_id) do update set epoch = excluded.epoch, status = excluded.status,
            schedule_id = excluded.schedule_id, finished_at = excluded.finished_at, expires_at = excluded.expires_at,
            body = excluded.body
        where result.epoch < excluded.epoch or result.epoch > {MAX_COUNT}
            or (result.epoch = excluded.epoch and (excluded.status <> 'running' or result.status = 'running'))
"""
_PUT = f"""
    with {CLOCK}
    insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
    select task_id, epoch, status, schedule_id, now, now + ttl, body
    from clock, unnest($2::text[], $3::int[], $4::text[], $5::text[], $6::float8[], $7::bytea[])
        as given (task_id, epoch, status, schedule_id, ttl, body)
    {IF_IT_GIVES_WAY}
    returning task_id
"""
_REST = "task_id, epoch, status, schedule_id, finished_at, expires_at"
_COLUMNS = f"{_REST}, body"
_GET = f"""
    select {{columns}} from omniq.result
    where task_id = any($2::text[]) and (expires_at is null or expires_at > {NOW})
"""
_GET_WHOLE = _GET.format(columns=_COLUMNS)
_GET_SMALL = _GET.format(
    columns=f"{_REST}, case when octet_length(body) <= {LARGE} then body end as body, octet_length(body) as size"
)
_OF_SCHEDULE = f"""
    select {_COLUMNS} from omniq.result
    where schedule_id = $2 and (expires_at is null or expires_at > {NOW})
    order by finished_at {{0}}, task_id {{0}} limit $3
"""
_PURGE = f"""
    with old as (
        select task_id from omniq.result where expires_at <= {NOW}
        order by expires_at limit $2 for update skip locked)
    delete from omniq.result using old where result.task_id = old.task_id returning result.task_id
"""


class PostgresResultStore(PostgresStore, BaseResultStorage):
    """Results in a schema, by default the one in which the queue is."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        columns = arrays(records, "task_id", "epoch", "status", "schedule_id", "ttl", "body")
        rows = await self._connection.run(lambda session: session.fetch(_PUT, clock.offset(), *columns))
        stored = {row[0] for row in rows}
        self._connection.channel.tell(News(ended=list(stored)))
        return [record.task_id in stored for record in records]

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        job = partial(replace_bodies, table="result", key="task_id", bodies=bodies)
        return await self._connection.run(job)

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        rows = await self._connection.run(lambda session: session.fetch(_GET_SMALL, clock.offset(), ids))
        large = [row for row in rows if row["body"] is None]
        found = {row["task_id"]: _record(row) for row in rows if row["body"] is not None}
        for part in parts(large, itemgetter("size"), limit=len(large) or 1):
            found |= await self._get_whole([row["task_id"] for row in part])
        return [found.get(id_) for id_ in ids]

    async def _get_whole(self, ids: Sequence[str]) -> dict[str, ResultRecord]:
        rows = await self._connection.run(lambda session: session.fetch(_GET_WHOLE, clock.offset(), ids))
        return {row["task_id"]: _record(row) for row in rows}

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        sql = _OF_SCHEDULE.format("desc" if newest_first else "asc")
        rows = await self._connection.run(lambda session: session.fetch(sql, clock.offset(), schedule_id, limit))
        return [_record(row) for row in rows]

    async def purge(self, *, limit: int = 1000) -> int:
        return len(await self._connection.run(lambda session: session.fetch(_PURGE, clock.offset(), limit)))

    async def hear(self, timeout: float) -> None:
        await self._connection.channel.hear(timeout)


def _record(row: asyncpg.Record) -> ResultRecord:
    """The result that a row is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        record = msgspec.convert(values, ResultRecord)
    except ValueError:
        return result_of(values)
    if record.expires_at is None:
        return record
    return replace(record, ttl=round(record.expires_at - record.finished_at, 6))


class AsyncPostgresResultStorage(Configured, AsyncResultStorage[PostgresResultStorageConfig]):
    """Results in a PostgreSQL schema. Takes the fields of `PostgresResultStorageConfig`."""

    @configured_by(PostgresResultStorageConfig)
    def __init__(self, config: PostgresResultStorageConfig) -> None:
        super().__init__(PostgresResultStore, config)


class PostgresResultStorage(Configured, ResultStorage):
    """`AsyncPostgresResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(PostgresResultStorageConfig)
    def __init__(self, config: PostgresResultStorageConfig) -> None:
        super().__init__(AsyncPostgresResultStorage.from_config(config))
