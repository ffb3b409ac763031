"""The hooks of the entry-point group `omniq.plugins`.

The entry point's value is a small module that imports neither a driver nor anything heavy, and implements the
hooks that it needs:

    from omniq.plugins import TaskQueueSpec, hookimpl

    @hookimpl
    def omniq_task_queues() -> list[TaskQueueSpec]:
        return [TaskQueueSpec("redis", store="omniq_redis.queue:RedisQueueStore", config="omniq_redis.config:…")]

Hooks are plain functions, called once per process: an `async def` hook, a misspelt one, or an `omniq_api_version`
with another major number disable the plugin, and only that one. The version is (1, 0) where a plugin says nothing;
a new minor number adds hooks or optional fields, and a new major one changes what is there.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from omniq.plugins.specs import CommandSpec, EventStoreSpec, ResultStoreSpec, Spec, TaskQueueSpec, WorkerSpec

PROJECT = "omniq"
GROUP = "omniq.plugins"
API_VERSION = (1, 0)

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

HOOKS: dict[str, type[Spec]] = {
    "omniq_task_queues": TaskQueueSpec,
    "omniq_result_stores": ResultStoreSpec,
    "omniq_event_stores": EventStoreSpec,
    "omniq_workers": WorkerSpec,
    "omniq_commands": CommandSpec,
}


@hookspec
def omniq_task_queues() -> Iterable[TaskQueueSpec]:
    """The task queues that the plugin brings."""
    return ()


@hookspec
def omniq_result_stores() -> Iterable[ResultStoreSpec]:
    """The result stores that the plugin brings."""
    return ()


@hookspec
def omniq_event_stores() -> Iterable[EventStoreSpec]:
    """The event stores that the plugin brings."""
    return ()


@hookspec
def omniq_workers() -> Iterable[WorkerSpec]:
    """The kinds of workers that the plugin brings."""
    return ()


@hookspec
def omniq_commands() -> Iterable[CommandSpec]:
    """The sub-commands that the plugin adds to `omniq`."""
    return ()
