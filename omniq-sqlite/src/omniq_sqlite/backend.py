"""SQLite's queue, results and events under one configuration."""

from __future__ import annotations

from typing import ClassVar

from omniq.backend import BaseBackend, configured_by

from omniq_sqlite.config import SQLiteTaskQueueConfig


class SQLiteBackend(BaseBackend):
    """A queue, results and events in one SQLite file. Takes the arguments of `SQLiteTaskQueueConfig`."""

    name: ClassVar[str] = "sqlite"

    @configured_by(SQLiteTaskQueueConfig)
    def __init__(self, config: SQLiteTaskQueueConfig) -> None:
        super().__init__(config)
