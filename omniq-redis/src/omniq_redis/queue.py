"""Tasks and schedules in Redis, in the order of the contract. Each method is one Lua script, or few."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, TypeAlias

import msgspec
from omniq.backend import Configured, configured_by
from omniq.models.task import TERMINAL, TaskState
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    Firing,
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
from omniq.storage.rules import shown, worker_of
from omniq.storage.wakeups import News

from omniq_redis import codec
from omniq_redis.codec import PARCEL, Kind, Page, Row, to_server, to_text
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.connection import RedisStore
from omniq_redis.results import RedisResultStore

# To put a generic type together at each call would take a microsecond.
_Rows: TypeAlias = Page[Row]
_RowsOrNone: TypeAlias = Page[Row | None]

_encode_worker = msgspec.json.Encoder().encode


class RedisQueueStore(RedisStore, BaseTaskQueue):
    """Tasks and schedules on a Redis server."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ATOMIC_RESULTS,
            Capability.CROSS_PROCESS,
            Capability.PERSISTENT,
            Capability.PRIORITY,
            Capability.PUSH,
            Capability.UNIQUE,
        }
    )

    def __init__(self, config: RedisTaskQueueConfig) -> None:
        super().__init__(config)
        self._results = RedisResultStore(config)

    def result_storage(self) -> RedisResultStore:
        return self._results

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        answers = await self._write("add", tasks, codec.tasks_batch)
        self.wakeups.tell(News(due=None))
        return [each for answer in answers for each in codec.added(answer)]

    # ── claims and workers ────────────────────────────────────────────────────

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        args = (queues, min(limit, PARCEL), lease, worker, self._connection.channel.look(queues))
        rows = await self._connection.ask(list[Row], "claim", args)
        tasks = list(map(codec.task_record, rows))
        if any(task.damage for task in tasks):
            return await self._give_stand_ins(rows, tasks, worker)
        return tasks

    async def _give_stand_ins(self, rows: Sequence[Row], tasks: Sequence[TaskRecord], worker: str) -> list[TaskRecord]:
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
        args = (lease, *codec.columns((held.task_id, held.epoch, held.worker) for held in leases))
        return [codec.LEASES[letter] for letter in await self._connection.call("extend", args)]

    async def held(self, worker: str) -> list[Lease]:
        held = await self._connection.ask(list[tuple[str, int]], "held", [worker])
        return [Lease(task_id, epoch, worker) for task_id, epoch in held]

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        start = (False, "") if after is None else (after.lease_until, to_server(after.task_id))
        rows = await self._connection.ask(list[tuple[bytes, int, bytes, str]], "lapsed", (*start, limit))
        return [LapsedLease(to_text(id_), epoch, to_text(worker), float(ends)) for id_, epoch, worker, ends in rows]

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        seen = [(to_server(each.task_id), each.epoch, to_server(each.worker), each.lease_until) for each in leases]
        rows = await self._connection.ask(list[Row], "reap", codec.columns(seen))
        if rows:
            self.wakeups.tell(News(due=None))
        return list(map(codec.task_record, rows))

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        return await self._connection.call("beat", (worker.name, leaving), _encode_worker(worker)) == b"1"

    async def inspect(self, worker: str) -> bool:
        return await self._connection.call("inspect", (to_server(worker),)) == b"1"

    async def workers(self) -> list[WorkerRecord]:
        rows = await self._connection.ask(list[tuple[bytes, float, bytes]], "workers", [None])
        found = [worker_of(to_text(name), report, seen) for name, seen, report in rows]
        return sorted(found, key=lambda worker: worker.name)

    async def now(self) -> float:
        return await self._connection.ask(float, "now", None)

    # ── changes ──────────────────────────────────────────────────────────────

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await self._write("transition", changes, codec.changes_batch)
        # This process's waiters are woken at once; the others hear it from the server.
        due: dict[str, float] | None = None if any(change.to is TaskState.PENDING for change in changes) else {}
        self.wakeups.tell(News(due, [change.task_id for change in changes if change.result is not None]))
        return [codec.CHANGED[letter] for answer in answers for letter in answer]

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        return await self._flags("replace_bodies", bodies, codec.bodies_batch)

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        await self._connection.call("workers", [older_than])
        args = (older_than, codec.states_mask(tuple(states)), min(limit, PARCEL))
        return int(await self._connection.call("purge", args))

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        answer = await self._connection.call("delete", (ids, codec.states_mask(tuple(states))))
        return [letter == ord("1") for letter in answer]

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._connection.call("pause", (queue_name, paused))
        self.wakeups.tell(News(due=None))

    # ── looking up ───────────────────────────────────────────────────────────

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        rows = await self._connection.all_pages(_RowsOrNone, "get", list(map(to_server, ids)), None, bodies)
        return [None if row is None else codec.task_record(row) for row in rows]

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        states = codec.states_mask(where.states or tuple(TaskState))
        wanted = (states, where.queue_name, where.name, where.schedule_id, where.expired)
        tasks: list[TaskRecord] = []
        more = True
        while more and len(tasks) <= limit:
            ids, more = await self._next_ids(wanted, cursor, newest_first, min(limit + 1, PARCEL))
            if ids:
                rows = await self._connection.all_pages(_Rows, "get", list(map(to_server, ids)), wanted, bodies)
                tasks += map(codec.task_record, rows)
                cursor = ids[-1]
        return TaskPage(tasks[:limit], tasks[limit - 1].id if len(tasks) > limit else None)

    async def _next_ids(self, where: Kind, cursor: str | None, backwards: bool, count: int) -> tuple[list[str], bool]:
        """The next ids after the cursor, in order, of tasks that may match; and whether there may be more."""
        args = (where, None if cursor is None else to_server(cursor), count, backwards)
        unseen = True
        while unseen:
            found, ends, unseen = await self._connection.ask(tuple[list[bytes], list[bytes], bool], "find", args)
        ids = sorted(set(found), reverse=backwards)
        if cursor is not None:  # which is among them
            del ids[: ids.index(cursor.encode("utf-8", "surrogateescape")) + 1]
        if ends:  # what comes beyond the nearest of them isn't known yet
            del ids[ids.index((max if backwards else min)(ends)) + 1 :]
        return list(map(to_text, ids[:count])), bool(ends) or len(ids) > count

    async def stats(self) -> list[QueueStats]:
        rows, paused, due = await self._connection.ask(
            tuple[list[tuple[bytes, int, int]], list[bytes], list[tuple[bytes, float]]], "stats", None
        )
        counts = [(shown(queue), codec.STATES[state], count) for queue, state, count in rows]
        return rules.queue_stats(counts, map(shown, paused), {shown(queue): at for queue, at in due})

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        families: list[list[str]] = [[] for _ in ids]
        for number, some in await self._connection.all_pages(Page[tuple[int, list[bytes]]], "children", ids):
            families[number] += map(shown, some)
        return families

    # ── schedules ────────────────────────────────────────────────────────────

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        args = (
            schedule.id,
            schedule.queue_name,
            schedule.next_run,
            schedule.last_run,
            schedule.paused,
            schedule.version,
            if_version,
        )
        return await self._connection.call("put_schedule", args, schedule.body) == b"1"

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        rows = await self._connection.all_pages(_Rows, "get_schedules", ids, within)
        records = map(codec.schedule_record, rows)
        found = {record.id: record for record in records if ids is None or record.id in ids}
        return [found[id_] for id_ in sorted(found)]

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._connection.call("delete_schedule", [schedule_id]) == b"1"

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        fired = await self._flags("fire", firings, codec.firings_batch)
        self.wakeups.tell(News(due=None))
        return fired

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self._connection.channel.for_tasks(queues, timeout)


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
