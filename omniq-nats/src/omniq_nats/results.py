"""The result storage in a NATS stream."""

from __future__ import annotations

from collections.abc import Sequence

from omniq.backend import Configured, configured_by
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.base import BaseResultStorage
from omniq.storage.records import ResultRecord
from omniq.storage.table_store import TableResultStore

from omniq_nats.config import NATSResultStorageConfig
from omniq_nats.connection import NATSStore


class NATSResultStore(NATSStore, TableResultStore, contract=BaseResultStorage):
    """Results in a NATS stream."""

    async def get_recent(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        return await self._get(ids, may_lag=True)

    async def hear(self, timeout: float) -> None:
        await self._connection.run(self._place.hear(timeout))


class AsyncNATSResultStorage(Configured, AsyncResultStorage[NATSResultStorageConfig]):
    """Results in a NATS stream. Takes the fields of `NATSResultStorageConfig`."""

    @configured_by(NATSResultStorageConfig)
    def __init__(self, config: NATSResultStorageConfig) -> None:
        super().__init__(NATSResultStore, config)


class NATSResultStorage(Configured, ResultStorage):
    """`AsyncNATSResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(NATSResultStorageConfig)
    def __init__(self, config: NATSResultStorageConfig) -> None:
        super().__init__(AsyncNATSResultStorage.from_config(config))
