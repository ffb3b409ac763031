"""The result storage in a SQLite file."""

from __future__ import annotations

from functools import partial

from omniq.backend import Configured, configured_by
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.sql import ask
from omniq.storage.sql.results import SQLResultStore

from omniq_sqlite.config import SQLiteResultStorageConfig
from omniq_sqlite.connection import SQLiteStore

_EXPIRED = partial(ask, ("integer",), "select 1 from omniq.result where expires_at <= {now} limit 1")


class SQLiteResultStore(SQLiteStore, SQLResultStore):
    """Results in a file, by default the one in which the queue is."""

    async def purge(self, *, limit: int = 1000) -> int:
        return await super().purge(limit=limit) if await self._read(_EXPIRED) else 0

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
