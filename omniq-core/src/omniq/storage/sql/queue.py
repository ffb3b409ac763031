"""The queue on SQL: adding, finding, counting, schedules, and the queue itself."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec.structs import asdict

from omniq import clock
from omniq.models.task import TaskState
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import (
    MAX_TIME,
    NEW,
    Added,
    Change,
    Changed,
    Firing,
    LapsedLease,
    NewTask,
    QueueStats,
    ScheduleRecord,
    TaskFilter,
    TaskRecord,
    WorkerRecord,
)
from omniq.storage.rules import judge, queue_stats, shown, state_of, worker_of
from omniq.storage.sql import (
    SCHEDULES,
    TASKS,
    Given,
    Overtaken,
    SQLStore,
    Statement,
    Steps,
    ask,
    atomically,
    claiming,
    conditions,
    do,
    get,
    kinds,
    reads,
    select,
    texts,
    write,
    writes,
)
from omniq.storage.sql.claiming import Settled, with_children
from omniq.storage.sql.results import SQLResultStore
from omniq.storage.wakeups import News

# ── adding ──────────────────────────────────────────────────────────────────


_KNOWN = """
    with parents as (select id from omniq.task where id {any[parents]} order by id {key_share})
    select id from parents union all select id from omniq.task where id {any[ids]}
"""
_HOLDERS = "select unique_key, id from omniq.task where unique_key {any[keys]}"


Insert: TypeAlias = Callable[[Sequence[NewTask]], Steps[Collection[str]]]


def add_tasks(tasks: Sequence[NewTask], insert: Insert) -> Steps[list[Added]]:
    """What became of each task.

    `insert` adds tasks whose ids and keys aren't there yet, and returns their ids: where all is well it decides alone.
    """
    added = () if any(task.depends_on for task in tasks) else (yield from insert(tasks))
    left = [task for task in tasks if task.id not in added]
    verdicts = iter((yield from atomically(partial(_judge_and_insert, left, insert))) if left else ())
    return [NEW if task.id in added else next(verdicts) for task in tasks]


def _judge_and_insert(tasks: Sequence[NewTask], insert: Insert) -> Steps[list[Added]]:
    verdicts = yield from judged(tasks)
    fresh = [task for task, verdict in zip(tasks, verdicts, strict=True) if verdict is NEW]
    if fresh and len((yield from insert(fresh))) < len(fresh):
        raise Overtaken
    return verdicts


def judged(tasks: Sequence[NewTask]) -> Steps[list[Added]]:
    """What is to become of each task.

    Until the transaction ends, the parents can't be purged, but they can be claimed, renewed and ended: a caller
    may have its transaction open for long.
    """
    ids = [task.id for task in tasks]
    parents = list({parent for task in tasks for parent in task.depends_on})
    keys = [task.unique for task in tasks if task.unique is not None]
    known = yield from texts(_KNOWN, parents=parents, ids=ids)
    holders: list[Any] = (yield from ask(("text", "text"), _HOLDERS, keys=keys)) if keys else []
    return judge(tasks, set(known), dict(holders))


def due_in(tasks: Sequence[NewTask], added: Sequence[Added]) -> dict[str, float]:
    """The queues that got tasks, and in about how many seconds the first of those is due."""
    due: dict[str, float] = {}
    now = clock.now()
    for task, verdict in zip(tasks, added, strict=True):
        if verdict is NEW and (not task.depends_on or task.past is not None):
            seconds = task.delay if task.run_at is None else task.run_at - now
            if seconds < due.get(task.queue_name, math.inf):
                due[task.queue_name] = seconds
    return due


# ── finding ─────────────────────────────────────────────────────────────────


_CHILDREN = "select parent, child from omniq.edge where parent {any[ids]} order by parent, child"
_PAUSED = "select queue_name from omniq.paused_queue"
NOT_AWAITED: Final = """
    not exists (
        select 1 from omniq.edge as edge join omniq.task as child on child.id = edge.child
        where edge.parent = task.id and child.state = 'waiting')
"""
_OLD = f"""
    select id from omniq.task as task
    where state = :state and finished_at is not null and finished_at <= {{now}} - :older_than and {NOT_AWAITED}
    order by finished_at limit :limit {{skip_locked}}
"""
_ENDED = f"""
    select id from omniq.task as task
    where id {{any[ids]}} and state {{any[states]}} and finished_at is not null and {NOT_AWAITED}
    order by id {{lock}}
"""
DELETE_EDGES: Final = "delete from omniq.edge where parent {any[ids]} or child {any[ids]}"
_FIND_TERMS: Final = {
    "after": "id > {text[after]}",
    "before": "id < {text[before]}",
    "queue_name": "queue_name = :queue_name",
    "name": "name = :name",
    "schedule_id": "schedule_id = :schedule_id",
    "expired": "expires_at <= {now}",
}

Count: TypeAlias = tuple[str, TaskState, int]
"""How many tasks of a queue are in a state."""


def children(ids: Sequence[str]) -> Steps[list[list[str]]]:
    """As `BaseTaskQueue.children`; of those that can be told."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for parent, child in (yield from ask(("text", "text"), _CHILDREN, ids=ids)):
        if child.isprintable():
            found[parent].append(child)
    return [found[id_] for id_ in ids]


def select_old(older_than: float, states: Collection[TaskState], limit: int) -> Steps[list[str]]:
    """The tasks that ended that long ago and that no WAITING child depends on, longest ago first within each state."""
    old: list[str] = []
    for state in sorted(states):
        if len(old) < limit:
            old += yield from texts(_OLD, older_than=older_than, state=state, limit=limit - len(old))
    return old


def select_ended(ids: Sequence[str], states: Collection[TaskState]) -> Steps[list[str]]:
    """Those of the tasks that have ended in one of the states and that no WAITING child depends on."""
    return (yield from texts(_ENDED, ids=ids, states=sorted(states)))


def restrictions(where: TaskFilter, cursor: object, *, newest_first: bool) -> tuple[str, dict[str, Any]]:
    """SQL for what a page of tasks is restricted to beside their states, and its values."""
    values = asdict(where) | {"expired": where.expired or None, "before" if newest_first else "after": cursor}
    return conditions(_FIND_TERMS, values), values


class Counter:
    """How many tasks there are, from `stats` to `stats`: many aren't counted again at once.

    Counting reads the entry of each task in an index. Were that done in each transaction instead, those who write
    would wait for each other.
    """

    SLOW = 0.02
    """Seconds of counting from which on its outcome is remembered,"""
    WORTH = 20
    """so many times as long,"""
    STALE_AFTER = 3.0
    """but for no more than so many seconds."""

    def __init__(self, count: str, oldest_due: str) -> None:
        """`count` selects queue, state and number; `oldest_due`, of `:queues`, queue and time."""
        self._count_sql, self._oldest_due_sql = count, oldest_due
        self._counts: list[Count] = []
        self._queues: list[str] = []
        self._good_until = 0.0

    def stats(self) -> Steps[list[QueueStats]]:
        """As `BaseTaskQueue.stats`."""
        began = time.monotonic()
        if began >= self._good_until:
            yield from self._count()
            took = time.monotonic() - began
            self._good_until = began + (min(self.WORTH * took, self.STALE_AFTER) if took > self.SLOW else 0.0)
        due = yield from ask(("text", "time"), self._oldest_due_sql, queues=self._queues)
        oldest = {name: run_at if abs(run_at) <= MAX_TIME else 0.0 for name, run_at in due}
        paused = yield from texts(_PAUSED)
        return queue_stats(self._counts, map(shown, paused), oldest)

    def _count(self) -> Steps[None]:
        rows = yield from ask(("text", "text", "integer"), self._count_sql)
        self._queues = [name for name in dict.fromkeys(name for name, *_ in rows) if name.isprintable()]
        self._counts = [(shown(name), state_of(state), count) for name, state, count in rows]


# ── schedules and workers ───────────────────────────────────────────────────


_INSERT = """
    insert into omniq.schedule (id, queue_name, body, next_run, last_run, paused, version)
    values (:id, :queue_name, :body, :next_run, :last_run, :paused, cast(:version as bigint) + 1)
    on conflict (id) do nothing
"""
_UPDATE = """
    update omniq.schedule set queue_name = :queue_name, body = :body, next_run = :next_run,
        last_run = :last_run, paused = :paused, version = version + 1
    where id = :id and version = :version
"""
_FIND = "select {{columns}} from omniq.schedule where {where} order by id"
_SCHEDULE_TERMS: Final = {"ids": "id {any[ids]}", "within": "paused = {false} and next_run <= {now} + :within"}
_DELETE = "delete from omniq.schedule where id = :id"

_FIRED: Final = kinds("schedule_id text, if_version bigint, slot time, next_run time")
_ADVANCE = """
    with {given}, due as (
        select schedule.id, given.slot, given.next_run from given join omniq.schedule as schedule
            on schedule.id = given.schedule_id and schedule.version = given.if_version
        order by schedule.id {lock})
    update omniq.schedule as schedule
    set next_run = due.next_run, last_run = due.slot, version = schedule.version + 1
    from due where schedule.id = due.id
"""
"""Locked in the order of their ids, so that two schedulers never wait for each other."""
_AT_ANOTHER_VERSION = """
    with {given}
    select given.schedule_id from given left join omniq.schedule as schedule
        on schedule.id = given.schedule_id and schedule.version = given.if_version
    where schedule.id is null
"""

_BEAT = """
    insert into omniq.worker (name, last_seen, report) values (:name, {now}, :report)
    on conflict (name) do update set last_seen = excluded.last_seen, report = excluded.report,
        asked = case when worker.asked = 1 then 2 else 0 end
    returning asked
"""
_INSPECT = "update omniq.worker set asked = 1 where name = :name"
_LEAVE = "delete from omniq.worker where name = :name"
_FORGET = "delete from omniq.worker where last_seen <= {now} - :older_than"
_SEEN = "select name, report, last_seen from omniq.worker order by name"


def put_schedule(schedule: ScheduleRecord, *, if_version: int | None) -> Steps[bool]:
    """As `BaseTaskQueue.put_schedule`."""
    values = asdict(schedule)
    if if_version is None:
        return (yield from do(_INSERT, **values)) == 1
    return (yield from do(_UPDATE, **values | {"version": if_version})) == 1


def schedules(ids: Sequence[str] | None = None, *, within: float | None = None) -> Steps[list[ScheduleRecord]]:
    """As `BaseTaskQueue.schedules`."""
    values: dict[str, Any] = {"ids": ids, "within": within}
    return (yield from select(SCHEDULES, _FIND.format(where=conditions(_SCHEDULE_TERMS, values)), **values)).records


def delete_schedule(schedule_id: str) -> Steps[bool]:
    """As `BaseTaskQueue.delete_schedule`."""
    return (yield from do(_DELETE, id=schedule_id)) == 1


def advance(firings: Sequence[Firing]) -> Steps[set[str]]:
    """Move the schedules to their next slots that have these versions; returns which had."""
    given = Given.of(_FIRED, firings)
    return (
        yield from write("schedule.id", _ADVANCE, given, unchanged=partial(Statement, _AT_ANOTHER_VERSION, {}, given))
    )


def beat(worker: WorkerRecord, *, leaving: bool = False) -> Steps[bool]:
    """As `BaseTaskQueue.beat`."""
    if leaving:
        yield from do(_LEAVE, name=worker.name)
        return False
    report = msgspec.json.encode(worker).decode()
    ((asked,),) = yield from ask(("integer",), _BEAT, name=worker.name, report=report)
    return bool(asked == TOLD)


TOLD: Final = 2


def inspect(worker: str) -> Steps[bool]:
    """As `BaseTaskQueue.inspect`."""
    return (yield from do(_INSPECT, name=worker)) == 1


def workers() -> Steps[list[WorkerRecord]]:
    """As `BaseTaskQueue.workers`."""
    return [worker_of(*row) for row in (yield from ask(("text", "text", "time"), _SEEN))]


def forget_workers(older_than: float) -> Steps[int]:
    """Forget those that weren't seen for so many seconds; returns how many."""
    return (yield from do(_FORGET, older_than=older_than))


# ── the queue ───────────────────────────────────────────────────────────────


_PAUSE = "insert into omniq.paused_queue (queue_name) values (:name) on conflict (queue_name) do nothing"
_RESUME = "delete from omniq.paused_queue where queue_name = :name"


class SQLQueueStore(SQLStore, BaseTaskQueue):
    """Tasks and schedules in tables; a store adds, claims, finds, settles and purges in its own way."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.ATOMIC_RESULTS,
            Capability.CROSS_PROCESS,
            Capability.PERSISTENT,
            Capability.PRIORITY,
            Capability.UNIQUE,
        }
    )
    _counter: Counter
    _results: SQLResultStore

    def result_storage(self) -> SQLResultStore:
        return self._results

    get = reads(partial(get, TASKS))
    children = reads(children)
    held = reads(claiming.held)
    lapsed = reads(claiming.lapsed)
    beat = writes(beat)
    inspect = writes(inspect)
    workers = reads(workers)
    put_schedule = writes(put_schedule)
    delete_schedule = writes(delete_schedule)
    schedules = reads(schedules)

    @staticmethod
    @abstractmethod
    def _add(tasks: Sequence[NewTask]) -> Steps[list[Added]]:
        """As `add`, whether or not a transaction is open."""

    _reap = staticmethod(claiming.reap)

    @staticmethod
    @abstractmethod
    def _settle(changes: Sequence[Change]) -> Steps[Settled]:
        """Apply the changes whose conditions hold."""

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        added = await self._write(partial(self._add, tasks))
        self._tell(News(due_in(tasks, added)), tasks=len(tasks))
        return added

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        reaped = await self._write(partial(self._reap, leases), atomic=True)
        self._tell(News({task.queue_name: 0.0 for task in reaped}), tasks=len(reaped))
        return reaped

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        settled = await self._write(partial(self._settle, changes))
        self._tell(News(settled.due, settled.ended), tasks=settled.queued)
        ids, parents = [change.task_id for change in changes], settled.parents
        if parents is None:
            parents = await self._read(partial(with_children, ids))
        return [Changed(settled.statuses[id_], id_ in parents) for id_ in ids]

    async def now(self) -> float:
        ((now,),) = await self._read(partial(ask, ("time",), "select {now}"))
        return float(now)

    async def stats(self) -> list[QueueStats]:
        return await self._read(self._counter.stats)

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._write(partial(do, _PAUSE if paused else _RESUME, name=queue_name))
        self._tell(News({} if paused else {queue_name: 0.0}))

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        fired = await self._write(partial(self._fire, firings), atomic=True)
        tasks = [firing.task for firing, done in zip(firings, fired, strict=True) if done]
        self._tell(News(due_in(tasks, [NEW] * len(tasks))), tasks=len(tasks))
        return fired

    def _fire(self, firings: Sequence[Firing]) -> Steps[list[bool]]:
        """Whether this call fired each schedule."""
        fired = yield from advance(firings)
        tasks = [firing.task for firing in firings if firing.schedule_id in fired]
        if tasks:
            yield from self._add(tasks)
        return [firing.schedule_id in fired for firing in firings]
