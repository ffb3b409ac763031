"""Backends: the task queue, results and events of one store under one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq_postgres.backend import PostgresBackend as PostgresBackend
    from omniq_redis.backend import RedisBackend as RedisBackend
    from omniq_sqlite.backend import SQLiteBackend as SQLiteBackend

    from omniq.component import BaseBackend as BaseBackend
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "BaseBackend": "omniq.component",
        },
        fronts=("backend",),
    )

__all__ = [
    "BaseBackend",
]
