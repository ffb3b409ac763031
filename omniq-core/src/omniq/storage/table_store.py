"""Stores on tables: the contract's verbs as steps, which a store carries out wherever it keeps the rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, ClassVar, TypeVar

from msgspec.structs import replace

from omniq.errors import PayloadTooLarge
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability, Store
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
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
)
from omniq.storage.table_set import Step, Tables
from omniq.storage.tables import AskedRecord

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")


class TableStore(Store):
    """What the stores on tables have in common. Bodies may be kept apart from rows: then these hold references."""

    @abstractmethod
    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """What the step answers, once all that it has changed is as durable as the store promises, and those who wait
        have been told. If the step fails, nothing has changed.

        With `may_lag`, a step that changes nothing may see the tables as they were a moment before. Raises
        `PayloadTooLarge` if what it has changed is more than can be written down at once.
        """

    async def carry_out_for(
        self, items: Sequence[K], step: Callable[[Tables, float, Sequence[K]], list[R]], *, may_lag: bool = False
    ) -> list[R]:
        """What a step answers to the items; in halves, where what it changes for all of them is too large."""
        try:
            return await self.carry_out(lambda tables, now: step(tables, now, items), may_lag=may_lag)
        except PayloadTooLarge:
            if len(items) == 1:
                raise
        half = len(items) // 2
        first = await self.carry_out_for(items[:half], step, may_lag=may_lag)
        return [*first, *await self.carry_out_for(items[half:], step, may_lag=may_lag)]

    async def purge_up_to(self, limit: int, purge: Callable[[Tables, float, int], int]) -> int:
        """How many rows of `limit` a purge deletes, in as many steps as that takes."""
        return len(
            await self.carry_out_for(
                range(limit), lambda tables, now, places: [None] * purge(tables, now, len(places)), may_lag=True
            )
        )

    async def store_bodies(self, records: Sequence[K], write: Callable[[Sequence[K]], Awaitable[R]]) -> R:
        """What `write` answers to the records of tasks or results, once their bodies are kept."""
        return await write(records)

    async def load_bodies(self, rows: Sequence[K]) -> Sequence[K]:
        """The rows with their bodies."""
        return rows


class TableResultStore(TableStore, BaseResultStorage):
    """Results as rows of a table."""

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await self.store_bodies(records, self._put)

    async def _put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await self.carry_out_for(records, lambda tables, now, part: [tables.results.put(r, now) for r in part])

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        rows = await self.carry_out(lambda tables, _: [tables.results.rows.get(new.task_id) for new in bodies])
        return await _replace_bodies(self, bodies, rows, lambda tables: tables.results.replace_body)

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        return await self._get(ids)

    async def _get(self, ids: Sequence[str], *, may_lag: bool = False) -> list[ResultRecord | None]:
        rows = await self.carry_out(lambda tables, now: [tables.results.get(id_, now) for id_ in ids], may_lag=may_lag)
        return await _fetch_known(self, rows)

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        found = await self.carry_out(
            lambda tables, now: tables.results.find(schedule_id, now, newest_first=newest_first, limit=limit)
        )
        return list(await self.load_bodies(found))

    async def purge(self, *, limit: int = 1000) -> int:
        return await self.purge_up_to(limit, lambda tables, now, most: tables.results.purge(now, most))


class TableQueueStore(TableStore, BaseTaskQueue):
    """Tasks and schedules as rows of tables. A store says besides which workers have told of themselves."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.UNIQUE}
    )
    size_of: ClassVar[Callable[[bytes], int]] = len
    """The size of the body that a row holds or stands for, in bytes."""

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        self._check_asked(tasks)
        return await self.store_bodies(tasks, self._add)

    async def _add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await self.carry_out_for(tasks, lambda tables, now, part: tables.tasks.add(part, now))

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        size_of, max_bytes = type(self).size_of, self.max_bytes

        def claim(tables: Tables, now: float, places: Sequence[int]) -> list[TaskRecord]:
            return tables.tasks.claim(
                queues, now, limit=len(places), lease=lease, worker=worker, max_bytes=max_bytes, size_of=size_of
            )

        return list(await self.load_bodies(await self.carry_out_for(range(limit), claim, may_lag=True)))

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        return await self.carry_out_for(
            leases, lambda tables, now, part: [tables.tasks.extend(held, now + lease) for held in part]
        )

    async def held(self, worker: str) -> list[Lease]:
        return await self.carry_out(lambda tables, _: tables.tasks.held(worker))

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        return await self.carry_out(lambda tables, now: tables.tasks.lapsed(now, limit, after), may_lag=True)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        seen = {worker.name: worker.last_seen for worker in await self.workers()}
        return await self.carry_out_for(
            leases, lambda tables, now, part: [bodiless(row) for row in tables.tasks.reap(part, now, seen)]
        )

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        results = [change.result for change in changes if change.result is not None]
        if not results:
            return await self._change(changes)

        async def write(kept: Sequence[ResultRecord]) -> list[Changed]:
            left = iter(kept)
            return await self._change([c if c.result is None else _with_result(c, next(left)) for c in changes])

        return await self.store_bodies(results, write)

    async def _change(self, changes: Sequence[Change]) -> list[Changed]:
        return await self.carry_out_for(changes, lambda tables, now, part: [tables.change(c, now) for c in part])

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        rows = await self.carry_out(lambda tables, _: [tables.tasks.rows.get(new.task_id) for new in bodies])
        return await _replace_bodies(self, bodies, rows, lambda tables: tables.tasks.replace_body)

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        rows = await self.carry_out(lambda tables, _: list(map(tables.tasks.rows.get, ids)))
        return await _fetch_known(self, rows) if bodies else [row and bodiless(row) for row in rows]

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        def find(tables: Tables, now: float) -> TaskPage:
            return tables.tasks.find(where, now, newest_first=newest_first, limit=limit, cursor=cursor)

        page = await self.carry_out(find, may_lag=where.may_lag)
        rows = await self.load_bodies(page.tasks) if bodies else map(bodiless, page.tasks)
        return TaskPage(list(rows), page.cursor)

    async def stats(self) -> list[QueueStats]:
        return await self.carry_out(lambda tables, now: tables.tasks.stats(now))

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        return await self.carry_out(lambda tables, _: list(map(tables.tasks.children, ids)))

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        await self.forget_workers(older_than)
        await self._forget_asked()
        gone = await self.purge_up_to(
            limit, lambda tables, now, most: tables.tasks.purge(now - older_than, states, most)
        )
        await self.purged()
        return gone

    async def purged(self) -> None:
        """Called after each purge: clear away what no row needs any more, if that is worth the trouble."""

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        return await self.carry_out_for(ids, lambda tables, _, part: [tables.tasks.delete(id_, states) for id_ in part])

    async def inspect(self, worker: str) -> bool:
        if all(known.name != worker for known in await self.workers()):
            return False
        await self.carry_out(lambda tables, _: tables.asked.write(worker, AskedRecord(worker)))
        return True

    async def was_asked(self, worker: str) -> bool:
        """Whether it was asked what it runs since the last call: for `beat`."""
        return await self.carry_out(lambda tables, _: tables.forget_asked([worker]), may_lag=True)

    async def _forget_asked(self) -> None:
        """Forget what those were asked that are gone."""
        if asked := await self.carry_out(lambda tables, _: set(tables.asked.rows), may_lag=True):
            gone = asked.difference([worker.name for worker in await self.workers()])
            await self.carry_out(lambda tables, _: tables.forget_asked(gone), may_lag=True)

    @abstractmethod
    async def forget_workers(self, older_than: float) -> None:
        """Forget the workers that weren't seen for so many seconds."""

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self.carry_out(lambda tables, _: tables.tasks.pause(queue_name, paused=paused))

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await self.carry_out(lambda tables, _: tables.schedules.put(schedule, if_version))

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        def find(tables: Tables, now: float) -> list[ScheduleRecord]:
            return tables.schedules.find(ids, None if within is None else now + within)

        return await self.carry_out(find, may_lag=within is not None)

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self.carry_out(lambda tables, _: tables.schedules.delete(schedule_id))

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        async def write(kept: Sequence[NewTask]) -> list[bool]:
            slots = [replace(firing, task=task) for firing, task in zip(firings, kept, strict=True)]
            return await self.carry_out_for(slots, lambda tables, now, part: [tables.fire(slot, now) for slot in part])

        return await self.store_bodies([firing.task for firing in firings], write)

    async def next_due(self, queues: Sequence[str]) -> dict[str, float]:
        """In how many seconds each queue has something to claim; those that have nothing are left out."""
        return await self.carry_out(lambda tables, now: tables.tasks.next_due(queues, now), may_lag=True)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        """As `BaseTaskQueue.wait`: what is due is told by who has followed the log."""
        await self.wakeups.for_tasks(queues, timeout, self.next_due)


def _with_result(change: Change, result: ResultRecord) -> Change:
    """The change with that result, which may be the one that it has."""
    return change if result is change.result else replace(change, result=result)


def bodiless(row: TaskRecord) -> TaskRecord:
    """The record without its body."""
    return replace(row, body=b"")


async def _fetch_known(store: TableStore, rows: Sequence[K | None]) -> list[K | None]:
    """The rows with their bodies; None stands for a row that isn't there."""
    found = iter(await store.load_bodies([row for row in rows if row is not None]))
    return [None if row is None else next(found) for row in rows]


async def _replace_bodies(
    store: TableStore,
    bodies: Sequence[NewBody],
    rows: Sequence[Any],
    verb: Callable[[Tables], Callable[[NewBody], bool]],
) -> list[bool]:
    """Let those of the rows have new bodies that have the old ones. What rows refer to is compared once more."""
    known = zip(rows, await _fetch_known(store, rows), bodies, strict=True)
    fitting = [(row, new) for row, record, new in known if record and record.body == new.old]

    async def write(kept: Sequence[Any]) -> set[str]:
        pairs = zip(fitting, kept, strict=True)
        changes = [NewBody(task_id=n.task_id, old=row.body, body=record.body) for (row, n), record in pairs]
        done = await store.carry_out_for(changes, lambda tables, _, part: list(map(verb(tables), part)))
        return {new.task_id for new, is_done in zip(changes, done, strict=True) if is_done}

    new_rows = [replace(row, body=new.body) for row, new in fitting]
    replaced = await store.store_bodies(new_rows, write) if new_rows else set()
    return [new.task_id in replaced for new in bodies]
