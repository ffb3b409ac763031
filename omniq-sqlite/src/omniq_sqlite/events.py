"""The event storage in a SQLite file."""

from __future__ import annotations

from omniq.backend import Configured, configured_by
from omniq.events import AsyncEventStorage, EventStorage
from omniq.storage.sql.results import SQLEventStore

from omniq_sqlite.config import SQLiteEventStorageConfig
from omniq_sqlite.connection import SQLiteStore


class SQLiteEventStore(SQLiteStore, SQLEventStore):
    """Events in a table that SQL can query."""


class AsyncSQLiteEventStorage(Configured, AsyncEventStorage[SQLiteEventStorageConfig]):
    """Events in a SQLite file. Takes the fields of `SQLiteEventStorageConfig`."""

    @configured_by(SQLiteEventStorageConfig)
    def __init__(self, config: SQLiteEventStorageConfig) -> None:
        super().__init__(SQLiteEventStore, config)


class SQLiteEventStorage(Configured, EventStorage):
    """`AsyncSQLiteEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(SQLiteEventStorageConfig)
    def __init__(self, config: SQLiteEventStorageConfig) -> None:
        super().__init__(AsyncSQLiteEventStorage.from_config(config))
