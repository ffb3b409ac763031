"""Stores on tables: the contract's verbs as steps, which a store carries out wherever it keeps the rows.

A step is a function of the tables and the time. It decides and changes rows at once; what it has changed is then
written down, shared or merely kept, as `TableStore.carry_out` of the store says: as a whole, or not at all.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias, TypeVar

from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability, Store
from omniq.storage.log_files import Line
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
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
from omniq.storage.tables import AskedRecord, Key, Order, Table, TaskTable
from omniq.storage.wakeups import News

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

# ── tables ──────────────────────────────────────────────────────────────────


class ScheduleTable(Table[ScheduleRecord]):
    """Schedules by id, written by compare-and-set on their version."""

    def get(self, schedule_id: str, version: int) -> ScheduleRecord | None:
        """The schedule, if that is its version."""
        row = self.rows.get(schedule_id)
        return row if row is not None and row.version == version else None

    def put(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        """Write the schedule over that version; returns whether it was still there."""
        row = self.rows.get(schedule.id)
        if (None if row is None else row.version) != if_version:
            return False
        version = (schedule.version if if_version is None else if_version) + 1
        self.write(schedule.id, replace(schedule, version=version))
        return True

    def find(self, ids: Iterable[str] | None, due_by: float | None = None) -> list[ScheduleRecord]:
        """All schedules by id, or those of `ids` that exist; of these only active ones with a slot by `due_by`."""
        rows = [self.rows[id_] for id_ in sorted(self.rows if ids is None else set(ids) & self.rows.keys())]
        return rows if due_by is None else [row for row in rows if _is_due(row, due_by)]

    def delete(self, schedule_id: str) -> bool:
        """Returns whether it was there."""
        there = schedule_id in self.rows
        if there:
            self.write(schedule_id, None)
        return there


def _is_due(schedule: ScheduleRecord, by: float) -> bool:
    return not schedule.paused and schedule.next_run is not None and schedule.next_run <= by


class ResultTable(Table[ResultRecord]):
    """Results by task, kept until they expire."""

    def __init__(self) -> None:
        super().__init__()
        self._expiring = Order(self.rows, lambda row: row.expires_at)
        self._of_schedule: defaultdict[str, list[Key]] = defaultdict(list)

    def put(self, record: ResultRecord, now: float) -> bool:
        """Store the record if the one that is there gives way; returns whether it was stored."""
        old = self.rows.get(record.task_id)
        if old is not None and not rules.gives_way(old, record):
            return False
        expires_at = None if record.ttl is None else now + record.ttl
        self.write(record.task_id, replace(record, finished_at=now, expires_at=expires_at))
        return True

    def replace_body(self, new: NewBody) -> bool:
        """Replace a result's body; returns whether it had the old one."""
        row = self.rows.get(new.task_id)
        if row is None or row.body != new.old:
            return False
        self.write(row.task_id, replace(row, body=new.body))
        return True

    def get(self, task_id: str, now: float) -> ResultRecord | None:
        """The task's result, unless it has expired."""
        row = self.rows.get(task_id)
        return None if row is None or (row.expires_at is not None and row.expires_at <= now) else row

    def find(self, schedule_id: str, now: float, *, newest_first: bool, limit: int) -> list[ResultRecord]:
        """Up to `limit` of the schedule's results that haven't expired, in the order of their ends."""
        keys = self._of_schedule.get(schedule_id, [])
        rows = (self.get(id_, now) for _, id_ in (reversed(keys) if newest_first else keys))
        return [row for row, _ in zip((row for row in rows if row is not None), range(limit), strict=False)]

    def purge(self, now: float, limit: int) -> int:
        """Delete up to `limit` expired results; returns how many."""
        gone = 0
        while gone < limit and (row := self._expiring.take(now)) is not None:
            self.write(row.task_id, None)
            gone += 1
        return gone

    def _index(self, old: ResultRecord | None, row: ResultRecord | None) -> None:
        if old is not None and old.schedule_id is not None:
            keys = self._of_schedule[old.schedule_id]
            del keys[bisect_left(keys, (old.finished_at, old.task_id))]
            if not keys:
                del self._of_schedule[old.schedule_id]
        if row is not None and row.schedule_id is not None:
            insort(self._of_schedule[row.schedule_id], (row.finished_at, row.task_id))
        if row is not None and row.expires_at is not None:
            self._expiring.enter(row.expires_at, row.task_id)


class Tables:
    """All that a store keeps at one place."""

    def __init__(self) -> None:
        self.tasks = TaskTable()
        self.schedules = ScheduleTable()
        self.results = ResultTable()
        self.asked = Table[AskedRecord]()

    def change(self, change: Change, now: float) -> Changed:
        """Apply a change of a task, and store its result, if its conditions hold."""
        status = self.tasks.change(change, now)
        if status is ChangeStatus.APPLIED and change.result is not None:
            self.results.put(change.result, now)
        return Changed(status, change.task_id in self.tasks.parents)

    def fire(self, firing: Firing, now: float) -> bool:
        """Add a slot's task and move its schedule on, if that is at its version; returns whether it was."""
        schedule = self.schedules.get(firing.schedule_id, firing.if_version)
        if schedule is None:
            return False
        self.tasks.add([firing.task], now)
        return self.schedules.put(replace(schedule, next_run=firing.next_run, last_run=firing.slot), firing.if_version)

    def forget_asked(self, workers: Iterable[str]) -> bool:
        """Forget that these were asked what they run; returns whether any was."""
        asked = [name for name in workers if name in self.asked.rows]
        for name in asked:
            self.asked.write(name, None)
        return bool(asked)

    @property
    def by_name(self) -> Mapping[str, Table[Any]]:
        """The tables, by what their rows are called."""
        rest: dict[str, Table[Any]] = {"schedule": self.schedules, "result": self.results, "asked": self.asked}
        return {"task": self.tasks, "queue": self.tasks.queues, **rest}

    def apply(self, lines: Iterable[Line]) -> None:
        """Have the rows as the lines tell them."""
        by_name = self.by_name
        for line in lines:
            if line.task is not None:
                by_name["task"].write(line.task.id, line.task)
            elif line.result is not None:
                by_name["result"].write(line.result.task_id, line.result)
            elif line.schedule is not None:
                by_name["schedule"].write(line.schedule.id, line.schedule)
            elif line.queue is not None:
                by_name["queue"].write(line.queue.name, line.queue)
            elif line.asked is not None:
                by_name["asked"].write(line.asked.name, line.asked)
            for name, ids in (line.gone or {}).items():
                for id_ in ids if name in by_name else ():
                    by_name[name].write(id_, None)

    @property
    def written(self) -> Written:
        """What has been written since the last `settle`."""
        return Written(self, {name: table.before for name, table in self.by_name.items()})

    def undo(self) -> None:
        """Let every row be what it was at the last `settle`."""
        for table in self.by_name.values():
            table.undo()

    def settle(self) -> Written:
        """What has been written since the last call. From now on, it can't be undone."""
        return Written(self, {name: table.settle() for name, table in self.by_name.items()})


class Written:
    """What steps have written: by the names of tables and the ids of rows, what the rows were before."""

    def __init__(self, tables: Tables, before: Mapping[str, Mapping[str, Any]]) -> None:
        self.tables = tables
        self.before = before

    def __bool__(self) -> bool:
        return any(self.before.values())

    def rows(self, name: str) -> Iterator[tuple[Any, Any]]:
        """Each row of a table that was written, as it was before and as it is now; None where there was or is none."""
        rows = self.tables.by_name[name].rows
        return ((old, rows.get(id_)) for id_, old in self.before[name].items())

    def lines(self) -> list[Mapping[str, Any]]:
        """What was written, to be encoded as lines that `decode_rows` reads."""
        lines: list[Mapping[str, Any]] = []
        gone: dict[str, list[str]] = {}
        for name, before in self.before.items():
            rows = self.tables.by_name[name].rows
            lines += ({name: row} for id_ in before if (row := rows.get(id_)) is not None)
            if ids := [id_ for id_, old in before.items() if old is not None and id_ not in rows]:
                gone[name] = ids
        return [*lines, {"gone": gone}] if gone else lines

    def news(self, now: float) -> News:
        """What those who wait are to be told of it."""
        due: dict[str, float] = {}
        rows = self.tables.tasks.rows
        for id_, old in self.before["task"].items():
            row = rows.get(id_)
            if row is not None and row.state in _DUE and (old is None or old.state is not row.state):
                due[row.queue_name] = min(row.run_at - now, due.get(row.queue_name, math.inf))
        opened = {name: -math.inf for name in self.before["queue"] if name not in self.tables.tasks.queues.rows}
        return News({**due, **opened}, [id_ for id_ in self.before["result"] if id_ in self.tables.results.rows])


@contextmanager
def undoing(tables: Tables) -> Iterator[None]:
    """Undo what was written if an error comes."""
    try:
        yield
    except BaseException:
        tables.undo()
        raise


_DUE = frozenset({TaskState.PENDING, TaskState.SCHEDULED})

Step: TypeAlias = Callable[[Tables, float], T]
"""Decides and changes, given the tables and the store's time (seconds since the epoch), and returns an answer."""


# ── stores ──────────────────────────────────────────────────────────────────


class TableStore(Store):
    """What the stores on tables have in common. Bodies may be kept apart from rows: then these hold references."""

    @abstractmethod
    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """What the step answers, once all that it has changed is as durable as the store promises, and those who wait
        have been told. If the step fails, nothing has changed.

        With `may_lag`, a step that changes nothing may see the tables as they were a moment before.
        """

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
        return await self.carry_out(lambda tables, now: [tables.results.put(record, now) for record in records])

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
        return await self.carry_out(lambda tables, now: tables.results.purge(now, limit), may_lag=True)


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
        return await self.carry_out(lambda tables, now: tables.tasks.add(tasks, now))

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        size_of, max_bytes = type(self).size_of, self.max_bytes

        def claim(tables: Tables, now: float) -> list[TaskRecord]:
            return tables.tasks.claim(
                queues, now, limit=limit, lease=lease, worker=worker, max_bytes=max_bytes, size_of=size_of
            )

        return list(await self.load_bodies(await self.carry_out(claim, may_lag=True)))

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        return await self.carry_out(lambda tables, now: [tables.tasks.extend(held, now + lease) for held in leases])

    async def held(self, worker: str) -> list[Lease]:
        return await self.carry_out(lambda tables, _: tables.tasks.held(worker))

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        return await self.carry_out(lambda tables, now: tables.tasks.lapsed(now, limit, after), may_lag=True)

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        seen = {worker.name: worker.last_seen for worker in await self.workers()}
        return await self.carry_out(lambda tables, now: [bodiless(row) for row in tables.tasks.reap(leases, now, seen)])

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        results = [change.result for change in changes if change.result is not None]
        if not results:
            return await self._change(changes)

        async def write(kept: Sequence[ResultRecord]) -> list[Changed]:
            left = iter(kept)
            return await self._change([c if c.result is None else _with_result(c, next(left)) for c in changes])

        return await self.store_bodies(results, write)

    async def _change(self, changes: Sequence[Change]) -> list[Changed]:
        return await self.carry_out(lambda tables, now: [tables.change(change, now) for change in changes])

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
        gone = await self.carry_out(
            lambda tables, now: tables.tasks.purge(now - older_than, states, limit), may_lag=True
        )
        await self.purged()
        return gone

    async def purged(self) -> None:
        """Called after each purge: clear away what no row needs any more, if that is worth the trouble."""

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        return await self.carry_out(lambda tables, _: [tables.tasks.delete(id_, states) for id_ in ids])

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
            return await self.carry_out(lambda tables, now: [tables.fire(slot, now) for slot in slots])

        return await self.store_bodies([firing.task for firing in firings], write)

    async def next_due(self, queues: Sequence[str]) -> dict[str, float]:
        """In how many seconds each queue has something to claim; those that have nothing are left out."""
        return await self.carry_out(lambda tables, now: tables.tasks.next_due(queues, now), may_lag=True)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
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
        done = await store.carry_out(lambda tables, _: list(map(verb(tables), changes)))
        return {new.task_id for new, is_done in zip(changes, done, strict=True) if is_done}

    new_rows = [replace(row, body=new.body) for row, new in fitting]
    replaced = await store.store_bodies(new_rows, write) if new_rows else set()
    return [new.task_id in replaced for new in bodies]
