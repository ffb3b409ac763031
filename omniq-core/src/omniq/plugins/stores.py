"""The hooks of a distribution that brings a task queue, a result store and an event store of one name."""

from __future__ import annotations

from collections.abc import Callable

from omniq.plugins.hookspecs import hookimpl
from omniq.plugins.specs import EventStoreSpec, ResultStoreSpec, TaskQueueSpec


def stores_of(
    package: str, prefix: str, name: str, *, url_schemes: tuple[str, ...], aliases: tuple[str, ...] = ()
) -> tuple[
    Callable[[], list[TaskQueueSpec]],
    Callable[[], list[ResultStoreSpec]],
    Callable[[], list[EventStoreSpec]],
]:
    """The hooks `omniq_task_queues`, `omniq_result_stores` and `omniq_event_stores` of a package.

    By the package's modules and the prefix of its classes, such as "omniq_sqlite" and "SQLite", its stores are
    `omniq_sqlite.queue:SQLiteQueueStore`, `.results:SQLiteResultStore` and `.events:SQLiteEventStore`, and what
    configures them `omniq_sqlite.config:SQLiteTaskQueueConfig`, `SQLiteResultStorageConfig` and
    `SQLiteEventStorageConfig`.
    """
    place = f"{package}.{{}}:{prefix}{{}}".format

    @hookimpl
    def omniq_task_queues() -> list[TaskQueueSpec]:
        config = place("config", "TaskQueueConfig")
        return [TaskQueueSpec(name, place("queue", "QueueStore"), config, aliases, url_schemes)]

    @hookimpl
    def omniq_result_stores() -> list[ResultStoreSpec]:
        config = place("config", "ResultStorageConfig")
        return [ResultStoreSpec(name, place("results", "ResultStore"), config, aliases, url_schemes)]

    @hookimpl
    def omniq_event_stores() -> list[EventStoreSpec]:
        config = place("config", "EventStorageConfig")
        return [EventStoreSpec(name, place("events", "EventStore"), config, aliases, url_schemes)]

    return omniq_task_queues, omniq_result_stores, omniq_event_stores
