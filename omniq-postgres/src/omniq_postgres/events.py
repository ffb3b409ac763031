"""The event storage in a PostgreSQL schema."""

from __future__ import annotations

from omniq.backend import Configured, configured_by
from omniq.events import AsyncEventStorage, EventStorage
from omniq.storage.sql.results import SQLEventStore

from omniq_postgres.config import PostgresEventStorageConfig
from omniq_postgres.connection import PostgresStore


class PostgresEventStore(PostgresStore, SQLEventStore):
    """Events in a table that SQL can query."""


class AsyncPostgresEventStorage(Configured, AsyncEventStorage[PostgresEventStorageConfig]):
    """Events in a PostgreSQL schema. Takes the fields of `PostgresEventStorageConfig`."""

    @configured_by(PostgresEventStorageConfig)
    def __init__(self, config: PostgresEventStorageConfig) -> None:
        super().__init__(PostgresEventStore, config)


class PostgresEventStorage(Configured, EventStorage):
    """`AsyncPostgresEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(PostgresEventStorageConfig)
    def __init__(self, config: PostgresEventStorageConfig) -> None:
        super().__init__(AsyncPostgresEventStorage.from_config(config))
