"""What this distribution brings. Imports neither sqlite3 nor anything else of it."""

from __future__ import annotations

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [
        TaskQueueSpec(
            "sqlite",
            store="omniq_sqlite.queue:SQLiteQueueStore",
            config="omniq_sqlite.config:SQLiteTaskQueueConfig",
            url_schemes=("sqlite",),
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
        )
    ]
