"""Tasks and schedules in Redis, in the order of the contract.

Each method runs one Lua script, or the same one for each part of a large batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import ClassVar

import msgspec
from omniq.backend.component import Configured, configured_by
from omniq.errors import StoreError
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.facade import TaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewBody,
    NewTask,
    QueueStats,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.storage.sizes import change_bytes
from omniq.storage.wakeups import News

from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.connection import RedisStore
from omniq_redis.finding import count_tasks, fetch_children, fetch_tasks, find_tasks
from omniq_redis.results import RedisResultStore
from omniq_redis.rows import TaskRow, task_record, to_server, to_text
from omniq_redis.schedules import delete_schedule, fetch_schedules, fire, put_schedule
from omniq_redis.wire import (
    ADDED,
    CHANGED,
    LEASES,
    PARCEL,
    Batch,
    bodies_batch,
    changes_batch,
    parcels,
    tasks_batch,
    weight_of_body,
    weight_of_task,
)
from omniq_redis.workers import beat, fetch_workers, forget_workers, server_now

_decode_rows = msgspec.msgpack.Decoder(list[TaskRow]).decode
_decode_held = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode
_decode_lapsed = msgspec.msgpack.Decoder(list[tuple[bytes, int, bytes, str]]).decode


class RedisQueueStore(RedisStore, BaseTaskQueue):
    """Tasks and schedules on a Redis server."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ATOMIC_RESULTS,
            Capability.CROSS_PROCESS,
            Capability.PERSISTENT,
            Capability.PRIORITY,
            Capability.PUSH,
        }
    )

    settle_batch = 250

    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(config)
        self._results = RedisResultStore(config)

    def result_storage(self) -> RedisResultStore:
        return self._results

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        batches = map(tasks_batch, parcels(tasks, weight_of_task, self.max_item_bytes))
        answers = await self._connection.calls("add", batches)
        self.wakeups.tell(News(due=None))
        return [ADDED[letter] for answer in answers for letter in answer]

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        names = list(dict.fromkeys(queues))

        def claims(wanted: int) -> list[Batch]:
            counts = (min(PARCEL, wanted - start) for start in range(0, wanted, PARCEL))
            return [Batch((names, count, lease, worker)) for count in counts]

        rows = await self._rows("claim", claims(min(limit, PARCEL)))
        if len(rows) == PARCEL:  # there may be more
            with suppress(StoreError):  # else what is claimed already would be lost; the next call will tell
                rows += await self._rows("claim", claims(limit - PARCEL))
        return await self._give_stand_ins(rows, worker)

    async def _give_stand_ins(self, rows: Sequence[TaskRow], worker: str) -> list[TaskRecord]:
        """The tasks claimed. Damaged ones get records that can be ended; those that nobody can name are set aside."""
        tasks = list(map(task_record, rows))
        damaged = [pair for pair in zip(rows, tasks, strict=True) if pair[1].damage is not None]
        named = [pair for pair in damaged if pair[0].id == pair[1].id.encode()]
        nameless = [pair for pair in damaged if pair not in named]
        for pairs, set_aside in ((named, False), (nameless, True)):
            if pairs:
                ids = [to_server(to_text(row.id)) for row, _ in pairs]
                queues = [task.queue_name for _, task in pairs]
                epochs = [task.epoch for _, task in pairs]
                await self._connection.call("repair", (ids, queues, epochs, worker, set_aside))
        unusable = {task.id for _, task in nameless}
        return [task for task in tasks if task.id not in unusable] if unusable else tasks

    async def _rows(self, name: str, batches: Iterable[Batch]) -> list[TaskRow]:
        answers = await self._connection.calls(name, batches)
        return [row for answer in answers for row in _decode_rows(answer)]

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        statuses: list[LeaseStatus] = []
        for start in range(0, len(leases), PARCEL):
            parcel = leases[start : start + PARCEL]
            args = (lease, *_columns((held.task_id, held.epoch, held.worker) for held in parcel))
            statuses += [LEASES[letter] for letter in await self._connection.call("extend", args)]
        return statuses

    async def held(self, worker: str) -> list[Lease]:
        held = _decode_held(await self._connection.call("held", [worker]))
        return [Lease(task_id, epoch, worker) for task_id, epoch in held]

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        start = (False, "") if after is None else (after.lease_until, to_server(after.task_id))
        rows = _decode_lapsed(await self._connection.call("lapsed", (*start, limit)))
        return [LapsedLease(to_text(id_), epoch, to_text(worker), float(ends)) for id_, epoch, worker, ends in rows]

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        await beat(self._connection, worker, leaving)

    async def workers(self) -> list[WorkerRecord]:
        return await fetch_workers(self._connection)

    async def now(self) -> float:
        return await server_now(self._connection)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        seen = [(to_server(each.task_id), each.epoch, to_server(each.worker), each.lease_until) for each in leases]
        parcels = (seen[start : start + PARCEL] for start in range(0, len(seen), PARCEL))
        rows = await self._rows("reap", [Batch(_columns(parcel)) for parcel in parcels])
        reaped = list(map(task_record, rows))
        if reaped:
            self.wakeups.tell(News(due=None))
        return reaped

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        batches = map(changes_batch, parcels(changes, change_bytes, self.max_item_bytes))
        answers = await self._connection.calls("transition", batches)
        self._tell(changes)
        return [CHANGED[letter] for answer in answers for letter in answer]

    def _tell(self, changes: Sequence[Change]) -> None:
        """Wake this process's waiters at once; the others hear it from the server."""
        if any(change.to is TaskState.PENDING for change in changes):
            self.wakeups.tell(News(due=None))
        self.wakeups.tell(News(ended=[change.task_id for change in changes if change.result is not None]))

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        batches = map(bodies_batch, parcels(bodies, weight_of_body, self.max_item_bytes))
        answers = await self._connection.calls("replace_bodies", batches)
        return [letter == ord("1") for answer in answers for letter in answer]

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        return await fetch_tasks(self._connection, ids, bodies=bodies)

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        return await find_tasks(self._connection, where, limit, cursor, bodies=bodies)

    async def stats(self) -> list[QueueStats]:
        return await count_tasks(self._connection)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        return await fetch_children(self._connection, ids)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        await forget_workers(self._connection, older_than)
        purged = 0
        while purged < limit:
            count = min(limit - purged, PARCEL)
            deleted = int(await self._connection.call("purge", (older_than, count)))
            purged += deleted
            if deleted < count:
                break
        return purged

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._connection.call("pause", (queue_name, paused))
        self.wakeups.tell(News(due=None))

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await put_schedule(self._connection, schedule, if_version)

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        return await fetch_schedules(self._connection, ids, within)

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await delete_schedule(self._connection, schedule_id)

    async def fire(self, schedule_id: str, *, if_version: int, next_run: float | None, task: NewTask) -> bool:
        fired = await fire(self._connection, schedule_id, if_version, next_run, task)
        self.wakeups.tell(News(due=None))
        return fired

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.channel.for_tasks(queues, timeout)


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


class AsyncRedisTaskQueue(Configured, AsyncTaskQueue[RedisTaskQueueConfig]):
    """A task queue on a Redis server. Takes the fields of `RedisTaskQueueConfig`."""

    @configured_by(RedisTaskQueueConfig)
    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(RedisQueueStore, config)


class RedisTaskQueue(Configured, TaskQueue):
    """`AsyncRedisTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(RedisTaskQueueConfig)
    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(AsyncRedisTaskQueue.from_config(config))
