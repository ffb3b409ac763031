"""How tasks ended, in the hash `result`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from omniq.backend.component import Configured, configured_by
from omniq.results.engine import AsyncResultStorage
from omniq.results.facade import ResultStorage
from omniq.storage.capabilities import Capability
from omniq.storage.records import NewBody, ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.wakeups import News

from omniq_redis.config import RedisResultStorageConfig
from omniq_redis.connection import RedisStore
from omniq_redis.wire import PARCEL, bodies_batch, result_record, results_batch, to_server, to_text

_decode_records = msgspec.msgpack.Decoder(tuple[float, list[bytes | None]]).decode
_decode_ids = msgspec.msgpack.Decoder(list[bytes]).decode


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
        found: list[ResultRecord | None] = []
        while len(found) < len(ids):
            asked = ids[len(found) :]
            answer = await self._connection.call("get_results", list(map(to_server, asked)))
            now, records = _decode_records(answer)
            found += [_current(id_, record, now) for id_, record in zip(asked, records, strict=False)]
        return found

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        found: list[ResultRecord] = []
        offset = 0
        while len(found) < limit:
            args = (schedule_id, newest_first, offset, PARCEL)
            ids = _decode_ids(await self._connection.call("find_results", args))
            found += [record for record in await self.get(list(map(to_text, ids))) if record is not None]
            offset += len(ids)
            if len(ids) < PARCEL:
                break
        return found[:limit]

    async def purge(self, *, limit: int = 1000) -> int:
        return int(await self._connection.call("purge_results", [min(limit, PARCEL)]))

    async def hear(self, timeout: float) -> None:
        await self._connection.hear_results(timeout)


def _current(task_id: str, record: bytes | None, now: float) -> ResultRecord | None:
    """The result, unless it isn't there or has expired."""
    result = None if record is None else result_record(task_id, record)
    expired = result is not None and result.expires_at is not None and result.expires_at <= now
    return None if expired else result


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
