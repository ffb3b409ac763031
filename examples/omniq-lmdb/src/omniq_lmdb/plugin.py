"""What this distribution brings. Imports nothing of it."""

from __future__ import annotations

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl

CONFIG = "omniq_lmdb.config:"
STORES = "omniq_lmdb.stores:"


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [TaskQueueSpec("lmdb", STORES + "LMDBTasks", CONFIG + "LMDBTaskQueueConfig", url_schemes=("lmdb",))]


@hookimpl
def omniq_result_stores() -> list[ResultStoreSpec]:
    return [ResultStoreSpec("lmdb", STORES + "LMDBResults", CONFIG + "LMDBResultStorageConfig", url_schemes=("lmdb",))]


@hookimpl
def omniq_event_stores() -> list[EventStoreSpec]:
    return [EventStoreSpec("lmdb", STORES + "LMDBEvents", CONFIG + "LMDBEventStorageConfig", url_schemes=("lmdb",))]
