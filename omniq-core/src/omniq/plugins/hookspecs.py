"""The hooks of the entry-point group `omniq.plugins`, and OmniQ's own plugin.

The entry point's value is a small module that imports neither a driver nor anything heavy, and implements the
hooks that it needs. Hooks are plain functions without arguments, called once per process: an `async def` hook, a
misspelt one, or an `omniq_api_version` with another major number disable the plugin, and only that one. The version
is (1, 0) where a plugin says nothing; a new minor number adds hooks or optional fields, and a new major one changes
what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version

import pluggy

from omniq.plugins.specs import CommandSpec, EventStoreSpec, ResultStoreSpec, Spec, StoreSpec, TaskQueueSpec, WorkerSpec

PROJECT = "omniq"
GROUP = "omniq.plugins"
API_VERSION = (1, 0)
VERSION = version("omniq-core")

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def omniq_task_queues() -> Iterable[TaskQueueSpec]:
    """The task queues that the plugin brings.

        from omniq.plugins import TaskQueueSpec, hookimpl

        @hookimpl
        def omniq_task_queues() -> list[TaskQueueSpec]:
            return [
                TaskQueueSpec(
                    "lmdb",
                    store="omniq_lmdb.stores:LMDBTasks",
                    config="omniq_lmdb.config:LMDBTaskQueueConfig",
                    url_schemes=("lmdb",),
                )
            ]

    After that, `type: lmdb`, `OMNIQ_TASK_QUEUE_TYPE=lmdb` and the URL `lmdb:///some/folder` select it.
    """
    return ()


@hookspec
def omniq_result_stores() -> Iterable[ResultStoreSpec]:
    """The result stores that the plugin brings.

    @hookimpl
    def omniq_result_stores() -> list[ResultStoreSpec]:
        return [
            ResultStoreSpec(
                "lmdb",
                store="omniq_lmdb.stores:LMDBResults",
                config="omniq_lmdb.config:LMDBResultStorageConfig",
                url_schemes=("lmdb",),
            )
        ]
    """
    return ()


@hookspec
def omniq_event_stores() -> Iterable[EventStoreSpec]:
    """The event stores that the plugin brings.

    @hookimpl
    def omniq_event_stores() -> list[EventStoreSpec]:
        return [
            EventStoreSpec(
                "lmdb",
                store="omniq_lmdb.stores:LMDBEvents",
                config="omniq_lmdb.config:LMDBEventStorageConfig",
                url_schemes=("lmdb",),
            )
        ]
    """
    return ()


@hookspec
def omniq_workers() -> Iterable[WorkerSpec]:
    """The kinds of workers that the plugin brings.

        @hookimpl
        def omniq_workers() -> list[WorkerSpec]:
            return [WorkerSpec("fiber", worker_class="acme.fibers:FiberWorker", aliases=("fibers",))]

    After that, `OmniQ(worker_type="fiber")` and `omniq worker --type fiber` run tasks so.
    """
    return ()


@hookspec
def omniq_commands() -> Iterable[CommandSpec]:
    """The sub-commands that the plugin adds to `omniq`. OmniQ's own can't be replaced.

    @hookimpl
    def omniq_commands() -> list[CommandSpec]:
        return [CommandSpec("dash", command="acme.dash:dash", help="Show a dashboard.")]
    """
    return ()


def stores_of(
    package: str, prefix: str, name: str, *, url_schemes: tuple[str, ...], aliases: tuple[str, ...] = ()
) -> tuple[Callable[[], Iterable[Spec]], ...]:
    """The hooks `omniq_task_queues`, `omniq_result_stores` and `omniq_event_stores` of a package.

    By the package's modules and the prefix of its classes, such as "omniq_sqlite" and "SQLite", its stores are
    `omniq_sqlite.queue:SQLiteQueueStore`, `.results:SQLiteResultStore` and `.events:SQLiteEventStore`, and what
    configures them `omniq_sqlite.config:SQLiteTaskQueueConfig`, `SQLiteResultStorageConfig` and
    `SQLiteEventStorageConfig`.
    """

    def hook(type_: type[StoreSpec], store: str, config: str) -> Callable[[], Iterable[Spec]]:
        config = f"{package}.config:{prefix}{config}Config"
        spec = type_(name, f"{package}.{store.format(prefix)}", config, aliases, url_schemes)
        return hookimpl(lambda: [spec])

    return (
        hook(TaskQueueSpec, "queue:{}QueueStore", "TaskQueue"),
        hook(ResultStoreSpec, "results:{}ResultStore", "ResultStorage"),
        hook(EventStoreSpec, "events:{}EventStore", "EventStorage"),
    )


class BuiltIn:
    """The plugin that core itself is: the kinds of workers that need nothing else."""

    @hookimpl
    def omniq_workers(self) -> list[WorkerSpec]:
        return [
            WorkerSpec("async", "omniq.workers.async_:AsyncWorker"),
            WorkerSpec("thread", "omniq.workers.thread:ThreadPoolWorker", aliases=("thread_pool",)),
            WorkerSpec("process", "omniq.workers.process:ProcessPoolWorker", aliases=("process_pool",)),
        ]
