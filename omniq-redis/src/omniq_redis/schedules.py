"""Schedules, in the hash `schedule`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import Firing, ScheduleRecord
from omniq.storage.wakeups import News

from omniq_redis.connection import RedisStore
from omniq_redis.wire import (
    PARCEL,
    ScheduleRow,
    firings_batch,
    flags,
    parcels,
    schedule_record,
    weight_of_firing,
)

_decode_rows = msgspec.msgpack.Decoder(list[ScheduleRow | None]).decode


class Schedules(RedisStore, BaseTaskQueue):
    """That part of the contract."""

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        s = schedule
        args = (s.id, s.queue_name, s.next_run, s.paused, s.version, if_version)
        return await self._connection.call("put_schedule", args, s.body) == b"1"

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        rows: list[ScheduleRow | None] = []
        if ids is None or within is not None:
            while len(page := await self._page(None, within, len(rows))) == PARCEL:
                rows += page
            rows += page
        else:
            rows = await self._page(ids)
        records = [schedule_record(row) for row in rows if row is not None]
        found = {record.id: record for record in records if ids is None or record.id in ids}
        return [found[id_] for id_ in sorted(found)]

    async def _page(
        self, ids: Sequence[str] | None, within: float | None = None, offset: int = 0
    ) -> list[ScheduleRow | None]:
        return _decode_rows(await self._connection.call("get_schedules", (ids, within, offset, PARCEL)))

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._connection.call("delete_schedule", [schedule_id]) == b"1"

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        batches = map(firings_batch, parcels(firings, weight_of_firing, self.max_item_bytes))
        fired = flags(await self._connection.calls("fire", batches))
        self.wakeups.tell(News(due=None))
        return fired
