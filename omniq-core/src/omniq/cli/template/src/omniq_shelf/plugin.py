"""What this distribution brings. It names classes and imports none, so that listing plugins costs nothing."""

from __future__ import annotations

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl

NAME = "shelf"
URL_SCHEMES = ("shelf",)


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [
        TaskQueueSpec(
            NAME,
            store="omniq_shelf.stores:ShelfTasks",
            config="omniq_shelf.config:ShelfTaskQueueConfig",
            url_schemes=URL_SCHEMES,
        )
    ]


@hookimpl
def omniq_result_stores() -> list[ResultStoreSpec]:
    return [
        ResultStoreSpec(
            NAME,
            store="omniq_shelf.stores:ShelfResults",
            config="omniq_shelf.config:ShelfResultStorageConfig",
            url_schemes=URL_SCHEMES,
        )
    ]


@hookimpl
def omniq_event_stores() -> list[EventStoreSpec]:
    return [
        EventStoreSpec(
            NAME,
            store="omniq_shelf.stores:ShelfEvents",
            config="omniq_shelf.config:ShelfEventStorageConfig",
            url_schemes=URL_SCHEMES,
        )
    ]
