"""What this distribution brings. Imports neither redis nor anything else of it."""

from __future__ import annotations

from typing import Final

from omniq.plugins import ResultStoreSpec, TaskQueueSpec, hookimpl

_SCHEMES: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [
        TaskQueueSpec(
            "redis",
            store="omniq_redis.queue:RedisQueueStore",
            config="omniq_redis.config:RedisTaskQueueConfig",
            aliases=("valkey",),
            url_schemes=_SCHEMES,
        )
    ]


@hookimpl
def omniq_result_stores() -> list[ResultStoreSpec]:
    return [
        ResultStoreSpec(
            "redis",
            store="omniq_redis.results:RedisResultStore",
            config="omniq_redis.config:RedisResultStorageConfig",
            aliases=("valkey",),
            url_schemes=_SCHEMES,
        )
    ]
