"""The task queues in files and in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from msgspec.structs import replace
from omniq.backend import Configured, configured_by
from omniq.queue import AsyncTaskQueue, TaskQueue
from omniq.storage.base import BaseResultStorage, Capability
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    Firing,
    NewBody,
    NewTask,
    ResultRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.storage.table_store import TableQueueStore, bodiless

from omniq_fsspec.bodies import size_of
from omniq_fsspec.config import FileConfig, FileTaskQueueConfig, MemoryConfig, MemoryTaskQueueConfig
from omniq_fsspec.connection import PlaceStore
from omniq_fsspec.results import FileResultStore

WORKERS: Final = "workers"
OF_FILES: Final = TableQueueStore.capabilities | {Capability.CROSS_PROCESS, Capability.PERSISTENT}


class FileQueueStore(PlaceStore, TableQueueStore):
    """Tasks and schedules as rows, the bodies of tasks in files beside them."""

    capabilities: ClassVar[frozenset[Capability]] = OF_FILES
    size_of: ClassVar[Callable[[bytes], int]] = staticmethod(size_of)

    def __init__(self, config: FileConfig | MemoryConfig) -> None:
        super().__init__(config)
        if config.settings.is_memory:
            self.capabilities = TableQueueStore.capabilities  # type: ignore[misc]

    def result_storage(self) -> BaseResultStorage:
        return FileResultStore(self._config)

    # ── tasks ────────────────────────────────────────────────────────────────

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        self._check_asked(tasks)
        return await self._keep(tasks, super().add)

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        claimed = await super().claim(queues, limit=limit, lease=lease, worker=worker)
        return await self._fetch(claimed, self._rows)

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        results = [change.result for change in changes if change.result is not None]
        if not results:
            return await super().transition(changes)

        async def write(kept: list[ResultRecord]) -> list[Changed]:
            left = iter(kept)
            return await super(FileQueueStore, self).transition(
                [change if change.result is None else replace(change, result=next(left)) for change in changes]
            )

        return await self._keep(results, write)

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        rows = await self._rows_of([new.task_id for new in bodies])
        return await self._replace(bodies, rows, super().replace_bodies)

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        rows = await self._rows_of(ids)
        found = [row for row in rows if row is not None]
        shown = iter(await self._fetch(found, self._rows) if bodies else map(bodiless, found))
        return [None if row is None else next(shown) for row in rows]

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        page = await super().find(where, newest_first=newest_first, limit=limit, cursor=cursor, bodies=bodies)
        return TaskPage(await self._fetch(page.tasks, self._rows), page.cursor) if bodies else page

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        async def write(kept: list[NewTask]) -> list[bool]:
            pairs = zip(firings, kept, strict=True)
            return await super(FileQueueStore, self).fire([replace(firing, task=task) for firing, task in pairs])

        return await self._keep([firing.task for firing in firings], write)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        gone = await super().purge(older_than=older_than, limit=limit)
        await self._connection.tidy()
        return gone

    async def _rows(self, records: Sequence[TaskRecord]) -> Sequence[TaskRecord | None]:
        return await self._rows_of([record.id for record in records])

    async def _rows_of(self, ids: Sequence[str]) -> list[TaskRecord | None]:
        return await self.carry_out(lambda tables, _: list(map(tables.tasks.rows.get, ids)))

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        self._connection.watch()
        await super().wait(queues, timeout)

    # ── workers ──────────────────────────────────────────────────────────────

    async def now(self) -> float:
        return self._connection.now()

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        await self._connection.beat(worker, leaving=leaving)

    async def workers(self) -> list[WorkerRecord]:
        return await self._connection.workers()

    async def forget_workers(self, older_than: float) -> None:
        await self._connection.forget_workers(older_than)


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
