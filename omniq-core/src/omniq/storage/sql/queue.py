"""Tasks and schedules in tables: what of the contract is alike in all databases."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from omniq.storage.capabilities import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import NEW, Added, Change, Changed, Firing, LapsedLease, NewTask, QueueStats, TaskRecord
from omniq.storage.sql import claiming, finding, schedules
from omniq.storage.sql.adding import due_in
from omniq.storage.sql.results import SQLResultStore
from omniq.storage.sql.settling import Settled, with_children
from omniq.storage.sql.steps import Steps, ask, do, get
from omniq.storage.sql.store import SQLStore, reads, writes
from omniq.storage.sql.tables import TASKS
from omniq.storage.wakeups import News

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
    _counter: finding.Counter
    _results: SQLResultStore

    def result_storage(self) -> SQLResultStore:
        return self._results

    get = reads(partial(get, TASKS))
    children = reads(finding.children)
    held = reads(claiming.held)
    lapsed = reads(claiming.lapsed)
    beat = writes(schedules.beat)
    workers = reads(schedules.workers)
    put_schedule = writes(schedules.put_schedule)
    delete_schedule = writes(schedules.delete_schedule)
    schedules = reads(schedules.schedules)

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
        fired = yield from schedules.advance(firings)
        tasks = [firing.task for firing in firings if firing.schedule_id in fired]
        if tasks:
            yield from self._add(tasks)
        return [firing.schedule_id in fired for firing in firings]
