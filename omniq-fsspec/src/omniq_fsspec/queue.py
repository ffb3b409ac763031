"""The task queues in files and in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from omniq.backend import Configured, configured_by
from omniq.queue import AsyncTaskQueue, TaskQueue
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability
from omniq.storage.records import WorkerRecord
from omniq.storage.table_store import TableQueueStore

from omniq_fsspec.bodies import size_of
from omniq_fsspec.config import FileConfig, FileTaskQueueConfig, MemoryConfig, MemoryTaskQueueConfig
from omniq_fsspec.connection import FilePlaceStore
from omniq_fsspec.results import FileResultStore

OF_FILES: Final = TableQueueStore.capabilities | {Capability.CROSS_PROCESS, Capability.PERSISTENT}


class FileQueueStore(FilePlaceStore, TableQueueStore, contract=BaseTaskQueue):
    """Tasks and schedules as rows, the bodies of tasks in files beside them."""

    capabilities: ClassVar[frozenset[Capability]] = OF_FILES
    size_of: ClassVar[Callable[[bytes], int]] = staticmethod(size_of)

    def __init__(self, config: FileConfig | MemoryConfig) -> None:
        super().__init__(config)
        if config.settings.is_memory:
            self.capabilities = TableQueueStore.capabilities  # type: ignore[misc]

    def result_storage(self) -> BaseResultStorage:
        return FileResultStore(self._config)

    async def purged(self) -> None:
        await self._place.vacuum()

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        self._connection.watch()
        await super().wait(queues, timeout)

    async def now(self) -> float:
        return self._place.now()

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        await self._place.workers.beat(worker, self._place.now(), leaving=leaving)
        return await self.was_asked(worker.name)

    async def workers(self) -> list[WorkerRecord]:
        return await self._place.workers.all()

    async def forget_workers(self, older_than: float) -> None:
        await self._place.workers.forget(self._place.now(), older_than)


class MemoryQueueStore(FileQueueStore):
    """Tasks and schedules in this process."""

    capabilities: ClassVar[frozenset[Capability]] = TableQueueStore.capabilities


class AsyncFileTaskQueue(Configured, AsyncTaskQueue[FileTaskQueueConfig]):
    """A task queue in files. Takes the fields of `FileTaskQueueConfig`."""

    @configured_by(FileTaskQueueConfig)
    def __init__(self, config: FileTaskQueueConfig) -> None:
        super().__init__(FileQueueStore, config)


class FileTaskQueue(Configured, TaskQueue):
    """`AsyncFileTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(FileTaskQueueConfig)
    def __init__(self, config: FileTaskQueueConfig) -> None:
        super().__init__(AsyncFileTaskQueue.from_config(config))


class AsyncMemoryTaskQueue(Configured, AsyncTaskQueue[MemoryTaskQueueConfig]):
    """A task queue in this process's memory. Takes the fields of `MemoryTaskQueueConfig`."""

    @configured_by(MemoryTaskQueueConfig)
    def __init__(self, config: MemoryTaskQueueConfig) -> None:
        super().__init__(MemoryQueueStore, config)


class MemoryTaskQueue(Configured, TaskQueue):
    """`AsyncMemoryTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(MemoryTaskQueueConfig)
    def __init__(self, config: MemoryTaskQueueConfig) -> None:
        super().__init__(AsyncMemoryTaskQueue.from_config(config))
