"""What this distribution brings. Imports neither asyncpg nor anything else of it."""

from __future__ import annotations

from typing import Final

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl

_SCHEMES: Final = ("postgresql", "postgres")


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [
        TaskQueueSpec(
            "postgres",
            store="omniq_postgres.queue:PostgresQueueStore",
            config="omniq_postgres.config:PostgresTaskQueueConfig",
            aliases=("postgresql",),
            url_schemes=_SCHEMES,
        )
    ]


@hookimpl
def omniq_result_stores() -> list[ResultStoreSpec]:
    return [
        ResultStoreSpec(
            "postgres",
            store="omniq_postgres.results:PostgresResultStore",
            config="omniq_postgres.config:PostgresResultStorageConfig",
            aliases=("postgresql",),
            url_schemes=_SCHEMES,
        )
    ]


@hookimpl
def omniq_event_stores() -> list[EventStoreSpec]:
    return [
        EventStoreSpec(
            "postgres",
            store="omniq_postgres.events:PostgresEventStore",
            config="omniq_postgres.config:PostgresEventStorageConfig",
            aliases=("postgresql",),
            url_schemes=_SCHEMES,
        )
    ]
