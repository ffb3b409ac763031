"""What this distribution brings. Imports neither sqlite3 nor anything else of it."""

from __future__ import annotations

from typing import Final

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl
from omniq.storage.capabilities import Capability

omniq_api_version = (1, 0)

_SHARED: Final = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [
        TaskQueueSpec(
            "sqlite",
            store="omniq_sqlite.queue:SQLiteQueueStore",
            config="omniq_sqlite.config:SQLiteTaskQueueConfig",
            url_schemes=("sqlite",),
            capabilities=_SHARED | {Capability.ATOMIC_RESULTS, Capability.PRIORITY},
            async_class="omniq_sqlite.queue:AsyncSQLiteTaskQueue",
            blocking_class="omniq_sqlite.queue:SQLiteTaskQueue",
        )
    ]


@hookimpl
def omniq_result_stores() -> list[ResultStoreSpec]:
    return [
        ResultStoreSpec(
            "sqlite",
            store="omniq_sqlite.results:SQLiteResultStore",
            config="omniq_sqlite.config:SQLiteResultStorageConfig",
            url_schemes=("sqlite",),
            capabilities=_SHARED,
            async_class="omniq_sqlite.results:AsyncSQLiteResultStorage",
            blocking_class="omniq_sqlite.results:SQLiteResultStorage",
        )
    ]


@hookimpl
def omniq_event_stores() -> list[EventStoreSpec]:
    return [
        EventStoreSpec(
            "sqlite",
            store="omniq_sqlite.events:SQLiteEventStore",
            config="omniq_sqlite.config:SQLiteEventStorageConfig",
            url_schemes=("sqlite",),
            capabilities=_SHARED,
            async_class="omniq_sqlite.events:AsyncSQLiteEventStorage",
            blocking_class="omniq_sqlite.events:SQLiteEventStorage",
        )
    ]
