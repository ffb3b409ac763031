"""The task queue in a NATS stream."""

from __future__ import annotations

from omniq.backend import Configured, configured_by
from omniq.queue import AsyncTaskQueue, TaskQueue
from omniq.storage.base import BaseResultStorage, BaseTaskQueue
from omniq.storage.stream_store import StreamQueueStore

from omniq_nats.config import NATSTaskQueueConfig
from omniq_nats.connection import NATSStore
from omniq_nats.results import NATSResultStore


class NATSQueueStore(NATSStore, StreamQueueStore, contract=BaseTaskQueue):
    """Tasks and schedules in a NATS stream."""

    def result_storage(self) -> BaseResultStorage:
        return NATSResultStore(self._config)


class AsyncNATSTaskQueue(Configured, AsyncTaskQueue[NATSTaskQueueConfig]):
    """A task queue in a NATS stream. Takes the fields of `NATSTaskQueueConfig`."""

    @configured_by(NATSTaskQueueConfig)
    def __init__(self, config: NATSTaskQueueConfig) -> None:
        super().__init__(NATSQueueStore, config)


class NATSTaskQueue(Configured, TaskQueue):
    """`AsyncNATSTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(NATSTaskQueueConfig)
    def __init__(self, config: NATSTaskQueueConfig) -> None:
        super().__init__(AsyncNATSTaskQueue.from_config(config))
