"""The components for users who build them in code, such as `OmniQ(task_queue=ShelfTaskQueue(base_dir="data"))`.

You may delete this module: names, types and URLs in a configuration don't need it.
"""

from __future__ import annotations

from typing import ClassVar

from omniq.backend import BaseBackend, Configured, configured_by
from omniq.events import AsyncEventStorage, EventStorage
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.results import AsyncResultStorage, ResultStorage

from .config import (
    ShelfEventStorageConfig,
    ShelfResultStorageConfig,
    ShelfTaskQueueConfig,
)
from .stores import ShelfEvents, ShelfResults, ShelfTasks


class AsyncShelfTaskQueue(Configured, AsyncTaskQueue[ShelfTaskQueueConfig]):
    """A task queue. Takes the fields of `ShelfTaskQueueConfig`."""

    @configured_by(ShelfTaskQueueConfig)
    def __init__(self, config: ShelfTaskQueueConfig) -> None:
        super().__init__(ShelfTasks, config)


class ShelfTaskQueue(Configured, TaskQueue):
    """`AsyncShelfTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(ShelfTaskQueueConfig)
    def __init__(self, config: ShelfTaskQueueConfig) -> None:
        super().__init__(AsyncShelfTaskQueue.from_config(config))


class AsyncShelfResultStorage(Configured, AsyncResultStorage[ShelfResultStorageConfig]):
    """Results. Takes the fields of `ShelfResultStorageConfig`."""

    @configured_by(ShelfResultStorageConfig)
    def __init__(self, config: ShelfResultStorageConfig) -> None:
        super().__init__(ShelfResults, config)


class ShelfResultStorage(Configured, ResultStorage):
    """`AsyncShelfResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(ShelfResultStorageConfig)
    def __init__(self, config: ShelfResultStorageConfig) -> None:
        super().__init__(AsyncShelfResultStorage.from_config(config))


class AsyncShelfEventStorage(Configured, AsyncEventStorage[ShelfEventStorageConfig]):
    """Events. Takes the fields of `ShelfEventStorageConfig`."""

    @configured_by(ShelfEventStorageConfig)
    def __init__(self, config: ShelfEventStorageConfig) -> None:
        super().__init__(ShelfEvents, config)


class ShelfEventStorage(Configured, EventStorage):
    """`AsyncShelfEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(ShelfEventStorageConfig)
    def __init__(self, config: ShelfEventStorageConfig) -> None:
        super().__init__(AsyncShelfEventStorage.from_config(config))


class ShelfBackend(BaseBackend):
    """A queue, results and events at one place. Takes the fields of `ShelfTaskQueueConfig`."""

    name: ClassVar[str] = "shelf"

    @configured_by(ShelfTaskQueueConfig)
    def __init__(self, config: ShelfTaskQueueConfig) -> None:
        super().__init__(config)
