"""Tasks and schedules on documents: read, let the rules decide, write, and again if somebody else was faster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import merge
from itertools import islice
from typing import ClassVar

from msgspec.structs import replace

from omniq.errors import UnsupportedCapability
from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import Capability
from omniq.storage.documents import results, tasks
from omniq.storage.documents.base import Document, Write, in_order
from omniq.storage.documents.leases import DocumentLeases
from omniq.storage.documents.tasks import TaskDocument
from omniq.storage.records import (
    DUPLICATE,
    NEW,
    UNKNOWN_PARENT,
    Added,
    AddStatus,
    Change,
    Changed,
    Firing,
    NewBody,
    NewTask,
    QueueStats,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
)
from omniq.storage.wakeups import News


class DocumentTaskQueue(DocumentLeases):
    """The contract of a task queue on any store that implements `Documents`.

    A store on it declares its `capabilities`: `ATOMIC_RESULTS` and `UNIQUE` where its documents are `atomic`.
    Every verb may be overridden where the store knows a better way.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.PRIORITY})

    # ── adding ───────────────────────────────────────────────────────────────

    async def add(self, new: Sequence[NewTask]) -> list[Added]:
        self._check_asked(new)
        await self._queues.remember({task.queue_name for task in new})
        judged = await self._judge(new)
        now = self.documents.now()

        def step(n: int, found: TaskDocument | None, holder: Document | None) -> tuple[Added, list[Write]]:
            if found is not None:
                return DUPLICATE, []
            if n in judged:
                return judged[n], []
            if holder is not None:
                return Added(AddStatus.DUPLICATE, holder.value.decode()), []
            first, body = tasks.first_version(rules.new_record(new[n], now))
            return NEW, [*body, *tasks.writes(None, first)]

        keys = [None if task.unique is None else tasks.unique_key(task.unique) for task in new]
        added = await self._tasks.change([task.id for task in new], step, beside=keys)
        added = await self._attach(new, added)
        self.wakeups.tell(News(due=None))
        return added

    async def _judge(self, new: Sequence[NewTask]) -> dict[int, Added]:
        """What becomes of those of the new tasks that aren't stored, as far as that can be told before."""
        if not any(task.depends_on or task.unique for task in new):
            return {}
        ids = list({id_ for task in new for id_ in (task.id, *task.depends_on)})
        known = {id_ for id_, found in zip(ids, await self._tasks.read(ids), strict=True) if found is not None}
        keys = list({task.unique for task in new if task.unique is not None})
        documents = await self.documents.read([tasks.unique_key(key) for key in keys]) if keys else []
        holders = {key: found.value.decode() for key, found in zip(keys, documents, strict=True) if found is not None}
        return {n: verdict for n, verdict in enumerate(rules.judge(new, known, holders)) if verdict != NEW}

    async def _attach(self, new: Sequence[NewTask], added: list[Added]) -> list[Added]:
        """Tell parents that they have children; take a child back whose parent was purged meanwhile.

        A parent's version rises after its child is there: a purge that hasn't seen the child can't delete it then.
        """
        children = [n for n, task in enumerate(new) if added[n] == NEW and task.depends_on]
        parents = list({parent for n in children for parent in new[n].depends_on})
        gone = set(parents) - {id_ for id_, there in zip(parents, await self._mark(parents), strict=True) if there}
        orphans = [n for n in children if gone.intersection(new[n].depends_on)]
        await self._delete([new[n].id for n in orphans])
        return [UNKNOWN_PARENT if n in orphans else answer for n, answer in enumerate(added)]

    async def _mark(self, parents: Sequence[str]) -> list[bool]:
        def step(n: int, found: TaskDocument | None, _: Document | None) -> tuple[bool, list[Write]]:
            if found is None:
                return False, []
            if found.has_children and found.record.state not in TERMINAL:
                return True, []
            return True, [tasks.write(found, replace(found, has_children=True))]

        return await self._tasks.change(parents, step)

    async def _delete(self, ids: Sequence[str]) -> None:
        await self._tasks.change(ids, lambda n, found, _: (None, [] if found is None else tasks.deletion(found)))

    # ── transitions ──────────────────────────────────────────────────────────

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        if Capability.ATOMIC_RESULTS not in self.capabilities and any(change.result is not None for change in changes):
            raise UnsupportedCapability(f"{self.location} can't store results in the step that ends a task")
        now = self.documents.now()

        def step(n: int, found: TaskDocument | None, old: Document | None) -> tuple[Changed, list[Write]]:
            status, record = rules.decide(None if found is None else found.record, changes[n], now)
            changed = Changed(status, found is not None and found.has_children)
            if found is None or record is None:
                return changed, []
            writes, result = tasks.writes(found, replace(found, record=record)), changes[n].result
            return changed, writes if result is None else [*writes, results.write(old, result, now)]

        beside = [None if change.result is None else results.result_key(change.task_id) for change in changes]
        answers = await self._tasks.change([change.task_id for change in changes], step, beside=beside)
        self.wakeups.tell(News(ended=[change.task_id for change in changes if change.result is not None]))
        if any(change.to is TaskState.PENDING for change in changes):
            self.wakeups.tell(News(due=None))
        return answers

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        def step(n: int, found: TaskDocument | None, _: Document | None) -> tuple[bool, list[Write]]:
            if found is None or not _has_body(found, bodies[n].old):
                return False, []
            changed, apart = tasks.with_body(found, bodies[n].body)
            left = [key for key in (found.body_key,) if key is not None and key != changed.body_key]
            old = [Write(key=key, value=None, always=True) for key in left]
            return True, [*apart, tasks.write(found, changed), *old]

        return await self._tasks.change([new.task_id for new in bodies], step)

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        await self._forget_workers(self.documents.now() - older_than)
        deleted, until = 0, in_order(self.documents.now() - older_than)
        for state in states:
            deleted += await self._purge(state, until, limit - deleted)
        return deleted

    async def _purge(self, state: TaskState, until: bytes, limit: int) -> int:
        deleted, last = 0, None
        while deleted < limit:
            page = await self.documents.scan(tasks.ended(state), after=last, until=until, limit=limit)
            if not page:
                break
            last = page[-1]
            ids = [entry.key for entry in page][: limit - deleted]
            deleted += sum((await self._delete_ended(ids, (state,))).values())
        return deleted

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        gone: set[str] = set()
        left: Sequence[str] = ids
        while left:
            tried = await self._delete_ended(left, states)
            gone.update(id_ for id_, is_gone in tried.items() if is_gone)
            left = [id_ for id_, is_gone in tried.items() if not is_gone]
        return [id_ in gone for id_ in ids]

    async def _delete_ended(self, ids: Sequence[str], states: Collection[TaskState]) -> dict[str, bool]:
        """Delete those that have ended so, except parents that a child waits for; returns for each of these whether it
        was: somebody else may have written it meanwhile."""
        documents = await self._tasks.read(ids)  # before the children are looked at: a parent changes when it gets one
        ended = [found for found in documents if found is not None and found.record.state in states]
        edges = await self._edges([found.record.id if found.has_children else None for found in ended])
        waiting = await self._waiting({child for of_one in edges for child in of_one})
        groups = {
            found.record.id: tasks.deletion(found, of_one)
            for found, of_one in zip(ended, edges, strict=True)
            if waiting.isdisjoint(of_one)
        }
        return dict(zip(groups, await self.documents.write(list(groups.values())), strict=True)) if groups else {}

    async def _waiting(self, ids: set[str]) -> set[str]:
        found = await self._tasks.read(sorted(ids))
        return {task.record.id for task in found if task is not None and task.record.state is TaskState.WAITING}

    # ── reading ──────────────────────────────────────────────────────────────

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        found = await self._tasks.read(ids)
        records = iter(await self._tasks.records([task for task in found if task is not None], bodies=bodies))
        return [None if task is None else next(records) for task in found]

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        matching: list[TaskDocument] = []
        last, now = cursor, self.documents.now()
        while len(matching) <= limit and (ids := await self._candidates(where, last, limit + 1, reverse=newest_first)):
            last = ids[-1]
            found = await self._tasks.read(ids)
            matching += [task for task in found if task is not None and rules.is_meant(task.record, where, now)]
        page = await self._tasks.records(matching[:limit], bodies=bodies)
        return TaskPage(page, page[-1].id if page and len(matching) > limit else None)

    async def _candidates(self, where: TaskFilter, after: str | None, limit: int, *, reverse: bool) -> list[str]:
        """The ids of up to `limit` tasks that may match and come after that id, in order, or before it."""
        if where.expired:
            until = in_order(self.documents.now())
            overdue = await self.documents.scan(tasks.EXPIRING, until=until, limit=EXPIRED_AT_ONCE)
            ids = sorted((entry.key for entry in overdue), reverse=reverse)
            left = [id_ for id_ in ids if after is None or (id_ < after if reverse else id_ > after)]
            return left[:limit]
        indexes = await self._lists(where)
        listed = [await self._ids(index, after, limit, reverse=reverse) for index in indexes]
        return list(islice(merge(*listed, reverse=reverse), limit))

    async def _lists(self, where: TaskFilter) -> list[str]:
        """The indexes in which all tasks are that match."""
        if where.schedule_id is not None:
            return [tasks.of_schedule(where.schedule_id)]
        states = where.states or tuple(TaskState)
        if where.name:
            return [tasks.named(where.name, state) for state in states]
        queues = await self._queues.all() if where.queue_name is None else [where.queue_name]
        return [tasks.listed(queue, state) for queue in queues for state in states]

    async def stats(self) -> list[QueueStats]:
        names = await self._queues.all()
        of = [(name, state) for name in names for state in TaskState]
        counted = await self.documents.count([tasks.listed(name, state) for name, state in of])
        counts = [(name, state, count) for (name, state), count in zip(of, counted, strict=True)]
        oldest = {name: due for name in names if (due := await self._oldest_due(name)) is not None}
        return rules.queue_stats(counts, await self._queues.paused(names), oldest)

    async def _oldest_due(self, queue_name: str) -> float | None:
        """The earliest time at which a task of the queue has come due."""
        now = self.documents.now()
        firsts = [*await self._firsts(tasks.due(queue_name)), *await self._firsts(tasks.later(queue_name))]
        return min((at for first in firsts if (at := tasks.run_at(first)) <= now), default=None)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        return await self._edges(ids)

    async def _edges(self, ids: Sequence[str | None]) -> list[list[str]]:
        return [[] if id_ is None else await self._all_ids(tasks.children(id_)) for id_ in ids]

    # ── schedules and queues ─────────────────────────────────────────────────

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await self._queues.pause(queue_name, paused=paused)
        self.wakeups.tell(News(due=None))

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await self._schedules.put(schedule, if_version)

    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        by = None if within is None else self.documents.now() + within
        return await self._schedules.find(ids, by)

    async def delete_schedule(self, schedule_id: str) -> bool:
        return await self._schedules.delete(schedule_id)

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        versions = await self._schedules.versions([firing.schedule_id for firing in firings])
        current = [firing for firing in firings if versions.get(firing.schedule_id) == firing.if_version]
        if current:
            # A task's id is that of its slot: whoever comes second adds nothing, and only one moves the schedule.
            await self.add([firing.task for firing in current])
        return [firing in current and await self._schedules.move(firing) for firing in firings]

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        """Also returns when a scheduled task of these queues becomes due."""
        await self.wakeups.for_tasks(queues, timeout, self._next_due)

    async def _next_due(self, queues: Sequence[str]) -> dict[str, float]:
        """In how many seconds each queue has something to claim; those that have nothing are left out."""
        due: dict[str, float] = {}
        for name in await self._queues.open(queues):
            if await self.documents.scan(tasks.due(name), limit=1):
                due[name] = 0.0
            elif firsts := await self._firsts(tasks.later(name)):
                due[name] = min(map(tasks.run_at, firsts)) - self.documents.now()
        return due


EXPIRED_AT_ONCE = 10_000
"""Expired tasks that one search looks at; the next one finds the others, once these have ended."""


def _has_body(task: TaskDocument, body: bytes) -> bool:
    if task.body_key is None:
        return task.record.body == body
    return task.body_key == tasks.body_key(task.record.id, body)
