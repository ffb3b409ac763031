"""The result storages in files and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from omniq.backend import Configured, configured_by
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.base import BaseResultStorage
from omniq.storage.records import ResultRecord
from omniq.storage.table_store import TableResultStore

from omniq_fsspec.config import FileResultStorageConfig, MemoryResultStorageConfig
from omniq_fsspec.connection import FilePlaceStore


class FileResultStore(FilePlaceStore, TableResultStore, contract=BaseResultStorage):
    """Results as rows, their bodies in files beside them."""

    async def get_recent(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        return await self._get(ids, may_lag=True)

    async def hear(self, timeout: float) -> None:
        self._connection.watch()
        await asyncio.sleep(timeout)


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
