"""What this distribution brings. Imports neither asyncpg nor anything else of it."""

from __future__ import annotations

from typing import Final

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl
from omniq.storage.capabilities import Capability

omniq_api_version = (1, 0)

_SCHEMES: Final = ("postgresql", "postgres")
_SHARED: Final = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})
_OF_QUEUES: Final = frozenset(
    {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.PUSH, Capability.TRANSACTIONAL_ENQUEUE}
)


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [
        TaskQueueSpec(
            "postgres",
            store="omniq_postgres.queue:PostgresQueueStore",
            config="omniq_postgres.config:PostgresTaskQueueConfig",
            aliases=("postgresql",),
            url_schemes=_SCHEMES,
            capabilities=_SHARED | _OF_QUEUES,
            async_class="omniq_postgres.queue:AsyncPostgresTaskQueue",
            blocking_class="omniq_postgres.queue:PostgresTaskQueue",
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
            capabilities=_SHARED,
            async_class="omniq_postgres.results:AsyncPostgresResultStorage",
            blocking_class="omniq_postgres.results:PostgresResultStorage",
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
            capabilities=_SHARED,
            async_class="omniq_postgres.events:AsyncPostgresEventStorage",
            blocking_class="omniq_postgres.events:PostgresEventStorage",
        )
    ]
