"""The result storages in files and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from omniq.backend import Configured, configured_by
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.records import NewBody, ResultRecord
from omniq.storage.table_store import TableResultStore

from omniq_fsspec.config import FileResultStorageConfig, MemoryResultStorageConfig
from omniq_fsspec.connection import PlaceStore


class FileResultStore(PlaceStore, TableResultStore):
    """Results as rows, their bodies in files beside them."""

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await self._keep(records, super().put)

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        rows = await self._rows_of([new.task_id for new in bodies])
        return await self._replace(bodies, rows, super().replace_bodies)

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        rows = await super().get(ids)
        shown = iter(await self._fetch([row for row in rows if row is not None], self._rows))
        return [None if row is None else next(shown) for row in rows]

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        found = await super().find(schedule_id, newest_first=newest_first, limit=limit)
        return await self._fetch(found, self._rows)

    async def hear(self, timeout: float) -> None:
        self._connection.watch()
        await asyncio.sleep(timeout)

    async def _rows(self, records: Sequence[ResultRecord]) -> Sequence[ResultRecord | None]:
        return await self._rows_of([record.task_id for record in records])

    async def _rows_of(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        return await self.carry_out(lambda tables, _: list(map(tables.results.rows.get, ids)))


class MemoryResultStore(FileResultStore):
    """Results in this process."""


class AsyncFileResultStorage(Configured, AsyncResultStorage[FileResultStorageConfig]):
    """Results in files. Takes the fields of `FileResultStorageConfig`."""

    @configured_by(FileResultStorageConfig)
    def __init__(self, config: FileResultStorageConfig) -> None:
        super().__init__(FileResultStore, config)


class FileResultStorage(Configured, ResultStorage):
    """`AsyncFileResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(FileResultStorageConfig)
    def __init__(self, config: FileResultStorageConfig) -> None:
        super().__init__(AsyncFileResultStorage.from_config(config))


class AsyncMemoryResultStorage(Configured, AsyncResultStorage[MemoryResultStorageConfig]):
    """Results in this process's memory. Takes the fields of `MemoryResultStorageConfig`."""

    @configured_by(MemoryResultStorageConfig)
    def __init__(self, config: MemoryResultStorageConfig) -> None:
        super().__init__(MemoryResultStore, config)


class MemoryResultStorage(Configured, ResultStorage):
    """`AsyncMemoryResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(MemoryResultStorageConfig)
    def __init__(self, config: MemoryResultStorageConfig) -> None:
        super().__init__(AsyncMemoryResultStorage.from_config(config))
