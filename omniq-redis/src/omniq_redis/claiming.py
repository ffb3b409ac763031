"""Claims, their leases, and the workers that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import msgspec
from omniq.storage.damage import worker_of
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import LapsedLease, Lease, LeaseStatus, TaskRecord, WorkerRecord
from omniq.storage.wakeups import News

from omniq_redis.connection import RedisStore
from omniq_redis.wire import LEASES, PARCEL, TaskRow, columns, decode_rows, task_record, to_server, to_text

_TIME = Struct(">d")

_encode_worker = msgspec.json.Encoder().encode
_decode_held = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode
_decode_lapsed = msgspec.msgpack.Decoder(list[tuple[bytes, int, bytes, str]]).decode
_decode_workers = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]]).decode


class Claiming(RedisStore, BaseTaskQueue):
    """That part of the contract."""

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        args = (queues, min(limit, PARCEL), lease, worker)
        rows = decode_rows(await self._connection.call("claim", args))
        tasks = list(map(task_record, rows))
        if any(task.damage for task in tasks):
            return await self._give_stand_ins(rows, tasks, worker)
        return tasks

    async def _give_stand_ins(
        self, rows: Sequence[TaskRow], tasks: Sequence[TaskRecord], worker: str
    ) -> list[TaskRecord]:
        """Let damaged tasks have records that can be ended, and set those aside that nobody can name."""
        named: list[TaskRecord] = []
        for row, task in zip(rows, tasks, strict=True):
            has_name = row.id == task.id.encode()
            if has_name:
                named.append(task)
            if task.damage is not None:
                args = (to_server(to_text(row.id)), task.queue_name, task.epoch, worker, not has_name)
                await self._connection.call("repair", args)
        return named

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        args = (lease, *columns((held.task_id, held.epoch, held.worker) for held in leases))
        return [LEASES[letter] for letter in await self._connection.call("extend", args)]

    async def held(self, worker: str) -> list[Lease]:
        held = _decode_held(await self._connection.call("held", [worker]))
        return [Lease(task_id, epoch, worker) for task_id, epoch in held]

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        start = (False, "") if after is None else (after.lease_until, to_server(after.task_id))
        rows = _decode_lapsed(await self._connection.call("lapsed", (*start, limit)))
        return [LapsedLease(to_text(id_), epoch, to_text(worker), float(ends)) for id_, epoch, worker, ends in rows]

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        seen = [(to_server(each.task_id), each.epoch, to_server(each.worker), each.lease_until) for each in leases]
        reaped = list(map(task_record, decode_rows(await self._connection.call("reap", columns(seen)))))
        if reaped:
            self.wakeups.tell(News(due=None))
        return reaped

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        await self._connection.call("beat", (worker.name, leaving), _encode_worker(worker))

    async def workers(self) -> list[WorkerRecord]:
        rows = _decode_workers(await self._connection.call("workers", [None]))
        found = [worker_of(to_text(name), value[_TIME.size :], _seen(value)) for name, value in rows]
        return sorted(found, key=lambda worker: worker.name)

    async def now(self) -> float:
        (now,) = _TIME.unpack(await self._connection.call("now", None))
        return float(now)


def _seen(value: bytes) -> float:
    return float(_TIME.unpack_from(value)[0]) if len(value) >= _TIME.size else 0.0
