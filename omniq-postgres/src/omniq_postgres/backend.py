"""PostgreSQL's queue, results and events under one configuration."""

from __future__ import annotations

from typing import ClassVar

from omniq.backend import BaseBackend, configured_by

from omniq_postgres.config import PostgresTaskQueueConfig


class PostgresBackend(BaseBackend):
    """A queue, results and events in one PostgreSQL schema. Takes the arguments of `PostgresTaskQueueConfig`."""

    name: ClassVar[str] = "postgres"

    @configured_by(PostgresTaskQueueConfig)
    def __init__(self, config: PostgresTaskQueueConfig) -> None:
        super().__init__(config)
