"""Tasks and schedules in Redis, in the order of the contract. Each method is one Lua script, or few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from omniq.backend.component import Configured, configured_by
from omniq.models.state import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.facade import TaskQueue
from omniq.storage import rules
from omniq.storage.capabilities import Capability
from omniq.storage.damage import shown, worker_of
from omniq.storage.queue import BaseTaskQueue
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
from omniq.storage.wakeups import News

from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.connection import RedisStore
from omniq_redis.results import RedisResultStore
from omniq_redis.wire import (
    CHANGED,
    LEASES,
    PARCEL,
    Kind,
    ScheduleRow,
    TaskRow,
    added,
    bodies_batch,
    changes_batch,
    columns,
    firings_batch,
    schedule_record,
    states_mask,
    task_record,
    tasks_batch,
    to_server,
    to_text,
)

_STATES = frozenset(TaskState)

_encode_worker = msgspec.json.Encoder().encode
_decode_time = msgspec.msgpack.Decoder(float).decode
_decode_tasks = msgspec.msgpack.Decoder(list[TaskRow]).decode
_decode_held = msgspec.msgpack.Decoder(list[tuple[str, int]]).decode
_decode_lapsed = msgspec.msgpack.Decoder(list[tuple[bytes, int, bytes, str]]).decode
_decode_workers = msgspec.msgpack.Decoder(list[tuple[bytes, float, bytes]]).decode
_decode_found = msgspec.msgpack.Decoder(tuple[int, list[TaskRow | None]]).decode
_decode_pages = msgspec.msgpack.Decoder(tuple[list[bytes], list[list[bytes]], int, bool]).decode
_decode_families = msgspec.msgpack.Decoder(tuple[list[list[bytes]], bool]).decode
_decode_stats = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes], list[bytes]]).decode
_decode_schedules = msgspec.msgpack.Decoder(list[ScheduleRow | None]).decode


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
        answers = await self._write("add", tasks, tasks_batch)
        self.wakeups.tell(News(due=None))
        return [each for answer in answers for each in added(answer)]

    # ── claims and workers ────────────────────────────────────────────────────

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        args = (queues, min(limit, PARCEL), lease, worker, self._connection.channel.is_called(queues))
        rows = _decode_tasks(await self._connection.call("claim", args))
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
        reaped = list(map(task_record, _decode_tasks(await self._connection.call("reap", columns(seen)))))
        if reaped:
            self.wakeups.tell(News(due=None))
        return reaped

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        await self._connection.call("beat", (worker.name, leaving), _encode_worker(worker))

    async def workers(self) -> list[WorkerRecord]:
        rows = _decode_workers(await self._connection.call("workers", [None]))
        found = [worker_of(to_text(name), report, seen) for name, seen, report in rows]
        return sorted(found, key=lambda worker: worker.name)

    async def now(self) -> float:
        return _decode_time(await self._connection.call("now", None))

    # ── changes ──────────────────────────────────────────────────────────────

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await self._write("transition", changes, changes_batch)
        # This process's waiters are woken at once; the others hear it from the server.
        if any(change.to is TaskState.PENDING for change in changes):
            self.wakeups.tell(News(due=None))
        self.wakeups.tell(News(ended=[change.task_id for change in changes if change.result is not None]))
        return [CHANGED[letter] for answer in answers for letter in answer]

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        return await self._flags("replace_bodies", bodies, bodies_batch)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        await self._connection.call("workers", [older_than])
        return int(await self._connection.call("purge", (older_than, min(limit, PARCEL))))

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._connection.call("pause", (queue_name, paused))
        self.wakeups.tell(News(due=None))

    # ── looking up ───────────────────────────────────────────────────────────

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        return await self._get(ids, None, bodies)

    async def _get(self, ids: Sequence[str], where: Kind | None, bodies: bool) -> list[TaskRecord | None]:
        """The tasks, None for those that aren't there; with a filter, those that match."""
        found: list[TaskRecord | None] = []
        asked = list(map(to_server, ids))
        while asked:
            done, rows = _decode_found(await self._connection.call("get", (asked, where, bodies)))
            found += [None if row is None else task_record(row) for row in rows]
            del asked[:done]
        return found

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        states = states_mask(where.states or tuple(TaskState))
        wanted = (states, where.queue_name, where.name, where.schedule_id, where.expired)
        tasks: list[TaskRecord] = []
        after, more = cursor, True
        while more and len(tasks) <= limit:
            ids, more = await self._next_ids(wanted, after, newest_first, min(limit + 1, PARCEL))
            tasks += [task for task in await self._get(ids, wanted, bodies) if task is not None]
            after = ids[-1] if ids else after
        return TaskPage(tasks[:limit], tasks[limit - 1].id if len(tasks) > limit else None)

    async def _next_ids(self, where: Kind, cursor: str | None, backwards: bool, count: int) -> tuple[list[str], bool]:
        """The next ids after the cursor, in order, of tasks that may match; and whether there may be more."""
        args = (where, None if cursor is None else to_server(cursor), count, backwards)
        unseen = True
        while unseen:
            some, pages, size, unseen = _decode_pages(await self._connection.call("find", args))
        found = {id_ for page in (some, *pages) for id_ in page}
        ends = [page[0 if backwards else -1] for page in pages if len(page) == size]
        if ends:  # what comes beyond the nearest of them isn't known yet
            found = {id_ for id_ in found if (id_ >= max(ends) if backwards else id_ <= min(ends))}
        if cursor is not None:
            after = cursor.encode("utf-8", "surrogateescape")
            found = {id_ for id_ in found if (id_ < after if backwards else id_ > after)}
        ids = sorted(found, reverse=backwards)
        return list(map(to_text, ids[:count])), bool(ends) or len(ids) > count

    async def stats(self) -> list[QueueStats]:
        counts, paused, due = _decode_stats(await self._connection.call("stats", None))
        numbers: list[tuple[str, TaskState, int]] = []
        for key, count in zip(counts[::2], counts[1::2], strict=True):
            name, _, state = shown(key).partition(" ")
            if state in _STATES and count.isdigit():  # else it is nobody's
                numbers.append((name, TaskState(state), int(count)))
        oldest = {shown(name): float(at) for name, at in zip(due[::2], due[1::2], strict=True)}
        return rules.queue_stats(numbers, map(shown, paused), oldest)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        families: list[list[str]] = [[] for _ in ids]
        start, after, more = 0, None, False
        while start < len(ids):
            pages, more = _decode_families(await self._connection.call("children", (ids[start:], after)))
            for family, page in zip(families[start:], pages, strict=False):
                family += map(shown, page)
            start += len(pages) - more
            after = to_server(to_text(pages[-1][-1])) if more else None
        return families

    # ── schedules ────────────────────────────────────────────────────────────

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
        return _decode_schedules(await self._connection.call("get_schedules", (ids, within, offset, PARCEL)))

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._connection.call("delete_schedule", [schedule_id]) == b"1"

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        fired = await self._flags("fire", firings, firings_batch)
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
