"""The contract that stores implement, and, lazily, the result and event stores that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq_postgres.events import AsyncPostgresEventStorage as AsyncPostgresEventStorage
    from omniq_postgres.events import PostgresEventStorage as PostgresEventStorage
    from omniq_postgres.results import AsyncPostgresResultStorage as AsyncPostgresResultStorage
    from omniq_postgres.results import PostgresResultStorage as PostgresResultStorage
    from omniq_redis.results import AsyncRedisResultStorage as AsyncRedisResultStorage
    from omniq_redis.results import RedisResultStorage as RedisResultStorage
    from omniq_sqlite.events import AsyncSQLiteEventStorage as AsyncSQLiteEventStorage
    from omniq_sqlite.events import SQLiteEventStorage as SQLiteEventStorage
    from omniq_sqlite.results import AsyncSQLiteResultStorage as AsyncSQLiteResultStorage
    from omniq_sqlite.results import SQLiteResultStorage as SQLiteResultStorage

    from omniq.storage.base import BaseEventStorage as BaseEventStorage
    from omniq.storage.base import BaseResultStorage as BaseResultStorage
    from omniq.storage.base import Capability as Capability
    from omniq.storage.queue import BaseTaskQueue as BaseTaskQueue
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "BaseEventStorage": "omniq.storage.base",
            "BaseResultStorage": "omniq.storage.base",
            "BaseTaskQueue": "omniq.storage.queue",
            "Capability": "omniq.storage.base",
        },
        fronts=(
            "events",
            "results",
        ),
    )

__all__ = [
    "BaseEventStorage",
    "BaseResultStorage",
    "BaseTaskQueue",
    "Capability",
]
