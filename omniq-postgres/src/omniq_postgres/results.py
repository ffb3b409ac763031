"""The result storage in a PostgreSQL schema."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

from omniq.backend import Configured, configured_by
from omniq.batching import parts
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.records import ResultRecord
from omniq.storage.sql import RESULTS, ask
from omniq.storage.sql.results import SQLResultStore

from omniq_postgres.config import PostgresResultStorageConfig
from omniq_postgres.connection import PostgresStore
from omniq_postgres.dialect import columns, records

LARGE = 64 * 1024
"""Bytes of a body from which on it is read apart, so that no answer becomes giant."""

_GET_SMALL: Final = f"""
    select {columns(RESULTS, bodies=False)}, octet_length(body) as size,
        case when octet_length(body) <= {LARGE} then body end as body
    from omniq.result
    where task_id {{any[ids]}} and (expires_at is null or expires_at > {{now}})
"""


class PostgresResultStore(PostgresStore, SQLResultStore):
    """Results in a schema, by default the one in which the queue is."""

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        rows: list[Any] = await self._read(partial(ask, (), _GET_SMALL, ids=ids))
        large = [row for row in rows if row["body"] is None]
        small = [row for row in rows if row["body"] is not None]
        found = {result.task_id: result for result in records(RESULTS, small)}
        for part in parts(large, itemgetter("size"), limit=len(large) or 1):
            whole = await super().get([row["task_id"] for row in part])
            found |= {result.task_id: result for result in whole if result is not None}
        return [found.get(id_) for id_ in ids]

    async def hear(self, timeout: float) -> None:
        await self._connection.channel.hear(timeout)


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
