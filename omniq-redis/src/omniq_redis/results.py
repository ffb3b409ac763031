"""How tasks ended, in the hash `result`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from omniq.backend import Configured, configured_by
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.storage.base import BaseResultStorage, Capability, look_up
from omniq.storage.records import NewBody, ResultRecord
from omniq.storage.wakeups import News

from omniq_redis.codec import PARCEL, Page, bodies_batch, result_record, results_batch, to_server, to_text
from omniq_redis.config import RedisResultStorageConfig
from omniq_redis.connection import RedisStore

# To put it together at each call would take a microsecond.
_Records: TypeAlias = Page[bytes | None]


class RedisResultStore(RedisStore, BaseResultStorage):
    """Results on a Redis server, by default the one that has the queue."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.CROSS_PROCESS, Capability.PERSISTENT, Capability.PUSH}
    )

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        stored = await self._flags("put_results", records, results_batch)
        self.wakeups.tell(News(ended=[r.task_id for r, done in zip(records, stored, strict=True) if done]))
        return stored

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        return await self._flags("replace_results", bodies, bodies_batch)

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        records = await self._connection.all_pages(_Records, "get_results", list(map(to_server, ids)))
        found = zip(ids, records, strict=True)
        return [None if record is None else result_record(id_, record) for id_, record in found]

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        ids = await self._connection.all_pages(Page[bytes], "find_results", schedule_id, newest_first, limit)
        return [record for record in await look_up(self, self.get, map(to_text, ids)) if record is not None]

    async def purge(self, *, limit: int = 1000) -> int:
        return int(await self._connection.call("purge_results", [min(limit, PARCEL)]))

    async def hear(self, timeout: float) -> None:
        await self._connection.channel.hear(timeout)


class AsyncRedisResultStorage(Configured, AsyncResultStorage[RedisResultStorageConfig]):
    """Results on a Redis server. Takes the fields of `RedisResultStorageConfig`."""

    @configured_by(RedisResultStorageConfig)
    def __init__(self, config: RedisResultStorageConfig) -> None:
        super().__init__(RedisResultStore, config)


class RedisResultStorage(Configured, ResultStorage):
    """`AsyncRedisResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(RedisResultStorageConfig)
    def __init__(self, config: RedisResultStorageConfig) -> None:
        super().__init__(AsyncRedisResultStorage.from_config(config))
