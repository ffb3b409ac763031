"""Stores that are broken in a detail each, which most calls never meet: see `planted`."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from bisect import insort
from collections.abc import Collection, Sequence
from typing import Any

from msgspec.structs import replace
from omniq import clock as wall
from omniq.models.event import TaskEvent
from omniq.models.task import TERMINAL, TaskState
from omniq.plugins.specs import StoreKind
from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Guarantees, Store
from omniq.storage.documents import DocumentResultStorage, Write
from omniq.storage.embedded import MemoryTables
from omniq.storage.records import (
    Change,
    Changed,
    ChangeStatus,
    EventFilter,
    EventPage,
    Firing,
    LapsedLease,
    Lease,
    NewBody,
    NewTask,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore
from omniq.testing.reference import DictDocuments, ReferenceSpace
from omniq_sqlite.queue import SQLiteQueueStore


class Finds(ReferenceQueueStore):
    """Passes `find` on, for those that get it wrong."""

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        return await self.page(where, newest_first=newest_first, limit=limit, cursor=cursor, bodies=bodies)

    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        return await super().find(where, **how)


# ── projects ────────────────────────────────────────────────────────────────


def spaces() -> list[ReferenceSpace]:
    """Those of all projects."""
    return [heap for heap in MemoryTables._named.values() if isinstance(heap, ReferenceSpace)]


class SharesKeys(ReferenceQueueStore):
    """A unique key that is held in one project is taken in all."""

    async def add(self, tasks: Sequence[NewTask]) -> list[Any]:
        for space in spaces():
            self.space.tasks._holders.update(space.tasks._holders)
        return await super().add(tasks)


class ForgetsForeignWorkers(ReferenceQueueStore):
    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        for space in spaces():
            space.workers.clear()
        return await super().purge(older_than=older_than, states=states, limit=limit)


class ForgetsBreakers(ReferenceQueueStore):
    """It keeps the fields that it knew when it was written."""

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        return await super().beat(replace(worker, breakers=()), leaving=leaving)


class ForgetsStacks(ReferenceQueueStore):
    """A report is cut, so that it fits into a row."""

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        return await super().beat(replace(worker, stacks=worker.stacks[:8000]), leaving=leaving)


class TellsForEver(ReferenceQueueStore):
    """Nobody notes that a worker was told what it was asked."""

    async def was_asked(self, worker: str) -> bool:
        return worker in self.space.asked.rows


class TellsEverybody(ReferenceQueueStore):
    """Any worker that beats takes the question."""

    async def was_asked(self, worker: str) -> bool:
        return await self.carry_out(lambda tables, _: tables.forget_asked(list(tables.asked.rows)))


class AsksAnyName(ReferenceQueueStore):
    async def inspect(self, worker: str) -> bool:
        return await super().inspect(worker.lower())


class KeepsWhatTheDeadWereAsked(ReferenceQueueStore):
    async def _forget_asked(self) -> None:
        """Forgets nothing."""


class AsksAllProjects(ReferenceQueueStore):
    async def inspect(self, worker: str) -> bool:
        return any([await ReferenceQueueStore.inspect(ReferenceQueueStore(space), worker) for space in spaces()])


class DropsByPrefix(ReferenceQueueStore):
    async def drop(self) -> None:
        for space in spaces():
            if space.location.startswith(self.location):
                space.clear()


class DropsTheQueueOnly(ReferenceQueueStore):
    async def drop(self) -> None:
        results, events = self.space.results, self.space.events
        await super().drop()
        self.space.results, self.space.events = results, events


class DropsNoPauses(ReferenceQueueStore):
    async def drop(self) -> None:
        paused = [queue.name for queue in await self.stats() if queue.paused]
        await super().drop()
        for name in paused:
            await self.pause(name, paused=True)


class DropsNoKeys(ReferenceQueueStore):
    async def drop(self) -> None:
        held = dict(self.space.tasks._holders)
        await super().drop()
        self.space.tasks._holders.update(held)


class PausesForItself(ReferenceQueueStore):
    """Others at the place don't hear of a pause."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self._paused: set[str] = set()

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        (self._paused.add if paused else self._paused.discard)(queue_name)

    async def claim(self, queues: Sequence[str], **how: Any) -> list[TaskRecord]:
        return await super().claim([name for name in queues if name not in self._paused], **how)


class ForgetsPausesOnClose(ReferenceQueueStore):
    async def close(self) -> None:
        for queue in await self.stats():
            self.space.tasks.pause(queue.name, paused=False)


class PurgesForeignResults(ReferenceResultStore):
    async def purge(self, *, limit: int = 1000) -> int:
        return sum(space.results.purge(wall.now(), limit) for space in spaces())


# ── places ──────────────────────────────────────────────────────────────────


class LeaksFromWait(SQLiteQueueStore):
    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        if "/dev/null" in self.location:
            raise sqlite3.OperationalError("unable to open database file")
        await super().wait(queues, timeout)


class ListensForEver(SQLiteQueueStore):
    """Whoever waits once has a thread that nobody ends."""

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True, name="listener").start()
        await super().wait(queues, timeout)


class CutsCallsOff(ReferenceQueueStore):
    """A close ends what is under way."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self._calls: set[asyncio.Task[Any]] = set()

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        await asyncio.sleep(0)
        self._calls.discard(task)
        return await super().get(ids, bodies=bodies)

    async def close(self) -> None:
        for call in self._calls:
            call.cancel()


class IsNotFenced(ReferenceQueueStore):
    async def guarantees(self) -> Guarantees:
        return replace(await super().guarantees(), fenced=False)


# ── reading ─────────────────────────────────────────────────────────────────


class FindsWhatIsGone(Finds):
    """An index of schedules keeps what was purged, and leads to whoever has the id now."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self._ids: dict[str, str | None] = {}

    async def add(self, tasks: Sequence[NewTask]) -> list[Any]:
        for task in tasks:
            self._ids.setdefault(task.id, task.schedule_id)
        return await super().add(tasks)

    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        if where != TaskFilter(schedule_id=where.schedule_id) or where.schedule_id is None:
            return await super().page(where, **how)
        page = await super().page(TaskFilter(), **how)
        return TaskPage([task for task in page.tasks if self._ids[task.id] == where.schedule_id], page.cursor)


class FindsReapedOnesNowhere(Finds):
    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        page = await super().page(where, **how)
        lost = {task.id for task in page.tasks if where.states and task.state is TaskState.PENDING and task.crashes}
        return TaskPage([task for task in page.tasks if task.id not in lost], page.cursor)


class IgnoresTheNameOfExpiredOnes(Finds):
    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        return await super().page(replace(where, name=None) if where.expired else where, **how)


class FindsQueuesByPrefix(Finds):
    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        if where.queue_name is None:
            return await super().page(where, **how)
        page = await super().page(replace(where, queue_name=None), **how)
        return TaskPage([t for t in page.tasks if t.queue_name.startswith(where.queue_name)], page.cursor)


class OrdersByUTF16(Finds):
    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        page = await super().page(where, **how)
        tasks = sorted(page.tasks, key=lambda task: task.id.encode("utf-16-be"), reverse=how["newest_first"])
        return TaskPage(tasks, page.cursor)


class KnowsItsOwnCursorsOnly(Finds):
    """A page begins after a task that it has listed, or at the beginning."""

    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        listed = {task.id for task in (await super().page(where, **how | {"cursor": None, "limit": 10_000})).tasks}
        return await super().page(where, **how | {"cursor": how["cursor"] if how["cursor"] in listed else None})


class ForgetsTheOtherParents(ReferenceQueueStore):
    """A purged parent takes the edges with it that its children have to others."""

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        edges = {parent: set(children) for parent, children in self.space.tasks._children.items()}
        gone = await super().purge(older_than=older_than, states=states, limit=limit)
        orphans = {id_ for parent in edges.keys() - self.space.tasks.rows.keys() for id_ in edges[parent]}
        for children in self.space.tasks._children.values():
            for id_ in orphans:
                children.pop(id_, None)
        return gone


class PurgesAnyEnd(ReferenceQueueStore):
    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        return await super().purge(older_than=older_than, limit=limit) if states else 0


class PurgesByAFormerEnd(ReferenceQueueStore):
    """A task is where it ended first."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self._first: dict[str, TaskState] = {}

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        for change in changes:
            if change.to in TERMINAL:
                self._first.setdefault(change.task_id, change.to)
        return answers

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        return await super().purge(older_than=older_than, states=set(self._first.values()) & set(states), limit=limit)


class DeletesWhatever(ReferenceQueueStore):
    """Whether it has ended, and who waits for it, or not."""

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        with self.space.lock:
            found = [id_ in self.space.tasks.rows for id_ in ids]
            for id_ in ids:
                self.space.tasks.write(id_, None)
        return found


class DeletesAnyEnd(ReferenceQueueStore):
    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        return await super().delete(ids)


class LooksThenDeletes(ReferenceQueueStore):
    """What is requeued in between is deleted all the same."""

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        ended = [row is not None and row.state in states for row in await self.get(ids)]
        await asyncio.sleep(0)
        with self.space.lock:
            for id_, goes in zip(ids, ended, strict=True):
                if goes:
                    self.space.tasks.write(id_, None)
        return ended


class DeletesTheRowOnly(ReferenceQueueStore):
    """Its edges stay."""

    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        edges = {parent: dict(children) for parent, children in self.space.tasks._children.items()}
        gone = await super().delete(ids, states=states)
        self.space.tasks._children.update(edges)
        self.space.tasks._is_awaited = lambda task_id: False  # type: ignore[method-assign]
        return gone


class FreesFormerKeys(ReferenceQueueStore):
    """Of tasks that are purged, whoever has them now."""

    def __init__(self, project: str) -> None:
        super().__init__(project)
        self._keys: dict[str, str] = {}

    async def add(self, tasks: Sequence[NewTask]) -> list[Any]:
        self._keys |= {task.id: task.unique for task in tasks if task.unique is not None}
        return await super().add(tasks)

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        gone = await super().purge(older_than=older_than, states=states, limit=limit)
        for id_ in self._keys.keys() - self.space.tasks.rows.keys():
            self.space.tasks._holders.pop(self._keys[id_], None)
        return gone


class CountsRequeuedOnesTwice(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        for change, answer in zip(changes, answers, strict=True):
            (row,) = await self.get([change.task_id])
            if change.fresh and answer.status is ChangeStatus.APPLIED and row is not None:
                self.space.tasks._queues[row.queue_name].in_state(TaskState.ERROR)[f"again-{row.id}"] = None
        return answers


class LosesLeasesBetweenPages(ReferenceQueueStore):
    """A page begins after the end of the last lease, whoever else's ended then."""

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        last = None if after is None else LapsedLease("\U0010ffff", after.epoch, after.worker, after.lease_until)
        return await super().lapsed(limit=limit, after=last)


class HoldsNothingLapsed(ReferenceQueueStore):
    async def held(self, worker: str) -> list[Lease]:
        leases = await super().held(worker)
        rows = await self.get([lease.task_id for lease in leases])
        return [lease for lease, row in zip(leases, rows, strict=True) if row and (row.lease_until or 0) > wall.now()]


# ── writing ─────────────────────────────────────────────────────────────────


class FillsEachQueuesRoom(ReferenceQueueStore):
    """`max_bytes` counts anew in each queue."""

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        handed: list[TaskRecord] = []
        for queue in queues:
            if left := limit - len(handed):
                handed += await super().claim([queue], limit=left, lease=lease, worker=worker)
        return handed


class LeasesWholeSeconds(ReferenceQueueStore):
    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        return await super().claim(queues, limit=limit, lease=float(int(lease)), worker=worker)


class OrdersByWholeSeconds(ReferenceQueueStore):
    async def claim(self, queues: Sequence[str], **how: Any) -> list[TaskRecord]:
        handed = await super().claim(queues, **how)
        return sorted(handed, key=lambda t: (queues.index(t.queue_name), -t.priority, int(t.run_at), t.id))


class ReapsAllOrNothing(ReferenceQueueStore):
    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        rows = await self.get([lease.task_id for lease in leases])
        found = zip(rows, leases, strict=True)
        lapsed = all(row is not None and rules.is_unrenewed(row, seen, wall.now()) for row, seen in found)
        return await super().reap(leases if lapsed else [])


class ReapsWhoseverItIs(ReferenceQueueStore):
    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        rows = await self.get([lease.task_id for lease in leases])
        workers = [row.worker or "" if row else "" for row in rows]
        found = zip(leases, workers, strict=True)
        return await super().reap([LapsedLease(s.task_id, s.epoch, worker, s.lease_until) for s, worker in found])


class ChecksTheFirstEpoch(ReferenceQueueStore):
    """Of a batch's changes."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([*changes[:1], *(replace(change, epoch=None) for change in changes[1:])])


class GivesBackWhoseverItIs(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([replace(c, worker=None) if c.to is TaskState.PENDING else c for c in changes])


class ReplacesAllOrNothing(ReferenceQueueStore):
    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        rows = await self.get([new.task_id for new in bodies])
        if all(row is not None and row.body == new.old for row, new in zip(rows, bodies, strict=True)):
            return await super().replace_bodies(bodies)
        return [False] * len(bodies)


class FiresBareTasks(ReferenceQueueStore):
    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        bare = [replace(f.task, run_at=None, ttl=None, priority=0, name="") for f in firings]
        return await super().fire([replace(firing, task=task) for firing, task in zip(firings, bare, strict=True)])


class TakesNegativeSlotsForNone(ReferenceQueueStore):
    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        found = await super().schedules(ids, within=within)
        return [each for each in found if within is None or (each.next_run or 0.0) >= 0]


class StoresSomeResultsLast(ReferenceQueueStore):
    """Those that `is_late` says."""

    def is_late(self, change: Change) -> bool:
        return change.to is TaskState.ERROR

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        late = [change for change in changes if change.result is not None and self.is_late(change)]
        answers = await super().transition([replace(c, result=None) if c in late else c for c in changes])
        if late:
            await asyncio.sleep(0)
            await ReferenceResultStore(self.space).put([c.result for c in late if c.result is not None])
        return answers


class StoresCancelledResultsLast(StoresSomeResultsLast):
    def is_late(self, change: Change) -> bool:
        return change.epoch is None


class StoresNoResultTwice(ReferenceQueueStore):
    """An end doesn't replace the progress that is there."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        stored = await ReferenceResultStore(self.space).get([change.task_id for change in changes])
        found = zip(changes, stored, strict=True)
        return await super().transition(
            [change if old is None else replace(change, result=None) for change, old in found]
        )


# ── waiting ─────────────────────────────────────────────────────────────────


class IsSilentAtResumes(ReferenceQueueStore):
    async def pause(self, queue_name: str, *, paused: bool) -> None:
        with self.space.lock:
            self.space.tasks.pause(queue_name, paused=paused)
            self.space.settle()


class IsSilentAtReleases(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        if all(change.from_states == (TaskState.WAITING,) for change in changes):
            with self.space.lock:
                changed = [self.space.change(change, wall.now()) for change in changes]
                self.space.settle()
                return changed
        return await super().transition(changes)


class LooksAtTheFirstQueue(ReferenceQueueStore):
    """Whoever waits for several hears of the others when the timeout is over."""

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end and not await self.next_due(queues[:1]):
            await asyncio.sleep(0.01)


# ── results and events ──────────────────────────────────────────────────────


class CountsExpiredResults(ReferenceResultStore):
    """They take the room of others on a page."""

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        rows = [self.space.results.rows[id_] for _, id_ in self.space.results._of_schedule.get(schedule_id, ())]
        first = sorted(rows, key=lambda row: row.finished_at, reverse=newest_first)[:limit]
        return [row for row in first if row.expires_at is None or row.expires_at > wall.now()]


class FindsResultsByPrefix(ReferenceResultStore):
    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        names = [name for name in self.space.results._of_schedule if name.startswith(schedule_id)]
        found = (self.space.results.find(name, wall.now(), newest_first=True, limit=limit) for name in names)
        rows = [row for page in found for row in page]
        return sorted(rows, key=lambda row: row.finished_at, reverse=newest_first)[:limit]


class LeavesEntries(DictDocuments):
    """Entries of documents that are deleted stay in their indexes, but for the first."""

    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        cut = [[replace(write, drop=write.drop[:1]) if write.value is None else write for write in g] for g in groups]
        return await super().write(cut)


class LeakyResults(DocumentResultStorage):
    def __init__(self, project: str) -> None:
        super().__init__(LeavesEntries())


class Queries(ReferenceEventStore):
    """Passes `query` on with other conditions."""

    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        return await super().query(self.meant(where), oldest_first=oldest_first, limit=limit, cursor=cursor)

    def meant(self, where: EventFilter) -> EventFilter:
        return where


class IgnoresTheQueueOfASchedule(Queries):
    def meant(self, where: EventFilter) -> EventFilter:
        return where if where.schedule_id is None else replace(where, queue_name=None)


class IgnoresTheNameOfATask(Queries):
    def meant(self, where: EventFilter) -> EventFilter:
        return where if where.task_id is None else replace(where, name=None)


class FindsEventsByPrefix(ReferenceEventStore):
    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        all_tasks = replace(where, task_id=None)
        page = await super().query(all_tasks, oldest_first=oldest_first, limit=limit, cursor=cursor)
        return EventPage([each for each in page.events if _begins(each, where.task_id or "")], page.cursor)


class KeepsEventsTwice(ReferenceEventStore):
    """Whatever is appended again is there again."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        with self.space.lock:
            for event in events:
                insort(self.space.events, (event.time, f"{event.id}/{len(self.space.events)}", event))


class OrdersByArrival(ReferenceEventStore):
    """Events of one time come in the order in which they were stored."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        known = {event.id for *_, event in self.space.events}
        with self.space.lock:
            for event in events:
                if event.id not in known:
                    insort(self.space.events, (event.time, f"{len(self.space.events):09d}", event))


class TurnsThePage(ReferenceEventStore):
    """Takes the newest of those that match, and turns them round."""

    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        page = await super().query(where, limit=limit, cursor=cursor)
        return EventPage(page.events[::-1], page.cursor) if oldest_first else page


class KnowsItsOwnCursors(ReferenceEventStore):
    """A cursor is of an event that is there."""

    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        if cursor is not None and cursor not in {event.cursor for *_, event in self.space.events}:
            return EventPage([])
        return await super().query(where, oldest_first=oldest_first, limit=limit, cursor=cursor)


def _begins(event: TaskEvent, task_id: str) -> bool:
    return (event.task_id or "").startswith(task_id)


QUEUES: list[tuple[type[BaseTaskQueue], str]] = [
    (SharesKeys, "queue.project.a_unique_key_concerns_one_project"),
    (ForgetsForeignWorkers, "queue.project.so_do_lapsed_leases_and_purges"),
    (ForgetsBreakers, "queue.upkeep.workers_are_listed_by_name_as_they_were_last_seen"),
    (ForgetsStacks, "queue.upkeep.what_it_runs_is_told_with_its_beat"),
    (TellsForEver, "queue.upkeep.a_worker_is_told_once_that_it_was_asked"),
    (TellsEverybody, "queue.upkeep.a_worker_is_told_once_that_it_was_asked"),
    (AsksAnyName, "queue.upkeep.nobody_asks_a_worker_that_is_not_there"),
    (KeepsWhatTheDeadWereAsked, "queue.upkeep.what_a_worker_was_asked_goes_with_it"),
    (AsksAllProjects, "queue.project.schedules_and_workers_are_kept_apart"),
    (DropsByPrefix, "queue.project.names_that_are_much_alike_are_different"),
    (DropsTheQueueOnly, "queue.drop.results_and_events_of_the_place_go_too"),
    (DropsNoPauses, "queue.drop.nothing_is_found_afterwards"),
    (DropsNoKeys, "queue.drop.nothing_is_found_afterwards"),
    (PausesForItself, "queue.project.two_stores_of_one_project_have_everything_in_common"),
    (ForgetsPausesOnClose, "queue.call.so_do_pauses_schedules_and_workers"),
    (LeaksFromWait, "queue.place.what_needs_no_place_raises_nothing_but_store_errors"),
    (ListensForEver, "queue.place.what_is_closed_is_closed"),
    (CutsCallsOff, "queue.place.calls_under_way_end_before_a_close"),
    (IsNotFenced, "queue.capability.nothing_is_promised_that_is_not_declared"),
    (FindsWhatIsGone, "queue.read.an_id_that_is_used_anew_is_found_by_nothing_old"),
    (FindsReapedOnesNowhere, "queue.read.tasks_are_found_by_what_they_are_now"),
    (IgnoresTheNameOfExpiredOnes, "queue.read.tasks_are_found_by_what_they_are_now"),
    (FindsQueuesByPrefix, "queue.read.names_that_are_much_alike_are_different"),
    (OrdersByUTF16, "queue.read.long_ids_are_in_order_too"),
    (KnowsItsOwnCursorsOnly, "queue.read.a_page_begins_after_any_id"),
    (ForgetsTheOtherParents, "queue.upkeep.a_waiting_childs_parent_is_kept"),
    (PurgesAnyEnd, "queue.upkeep.only_the_wanted_states_are_purged"),
    (PurgesByAFormerEnd, "queue.upkeep.a_purge_goes_by_how_a_task_ended_last"),
    (DeletesWhatever, "queue.upkeep.what_has_not_ended_is_not_deleted"),
    (DeletesWhatever, "queue.upkeep.a_waiting_childs_parent_is_not_deleted"),
    (DeletesAnyEnd, "queue.upkeep.only_tasks_that_ended_as_wanted_are_deleted"),
    (LooksThenDeletes, "queue.upkeep.a_delete_and_a_requeue_exclude_each_other"),
    (DeletesTheRowOnly, "queue.upkeep.a_deleted_task_leaves_no_trace"),
    (FreesFormerKeys, "queue.unique.a_purge_leaves_a_key_to_its_holder"),
    (CountsRequeuedOnesTwice, "queue.read.tasks_are_counted_by_what_they_are_now"),
    (LosesLeasesBetweenPages, "queue.lease.leases_of_one_end_come_in_pages_too"),
    (HoldsNothingLapsed, "queue.lease.it_holds_what_has_lapsed_until_that_is_reaped"),
    (FillsEachQueuesRoom, "queue.claim.so_it_is_over_several_queues"),
    (LeasesWholeSeconds, "queue.claim.a_lease_may_end_within_a_second"),
    (OrdersByWholeSeconds, "queue.claim.fractions_of_a_second_count"),
    (ReapsAllOrNothing, "queue.lease.of_several_leases_those_are_reaped_that_are_as_they_were_seen"),
    (ReapsWhoseverItIs, "queue.lease.another_workers_lease_is_left_alone"),
    (ChecksTheFirstEpoch, "queue.transition.a_late_worker_is_refused_beside_others"),
    (GivesBackWhoseverItIs, "queue.lease.a_change_may_name_the_worker"),
    (ReplacesAllOrNothing, "queue.upkeep.a_body_that_is_another_by_now_stays"),
    (FiresBareTasks, "queue.schedule.a_slots_task_is_stored_as_given"),
    (TakesNegativeSlotsForNone, "queue.schedule.a_slot_may_be_as_long_ago_as_anybody_likes"),
    (StoresSomeResultsLast, "queue.atomic.nobody_sees_an_end_without_its_result"),
    (StoresCancelledResultsLast, "queue.atomic.nobody_sees_an_end_without_its_result"),
    (StoresNoResultTwice, "queue.atomic.an_end_replaces_the_progress_and_the_end_of_an_older_claim"),
    (IsSilentAtResumes, "queue.wait.it_ends_when_a_queue_is_resumed"),
    (IsSilentAtReleases, "queue.wait.it_ends_when_a_child_is_released"),
    (LooksAtTheFirstQueue, "queue.wait.it_hears_of_each_of_its_queues"),
]
OTHERS: list[tuple[type[BaseResultStorage] | type[Store], str, StoreKind]] = [
    (PurgesForeignResults, "results.a_purge_concerns_one_project", "result_store"),
    (CountsExpiredResults, "results.expired_results_take_no_others_room", "result_store"),
    (FindsResultsByPrefix, "results.schedules_that_are_much_alike_are_different", "result_store"),
    (LeakyResults, "results.purged_results_leave_no_traces", "result_store"),
    (IgnoresTheQueueOfASchedule, "events.any_conditions_may_be_combined", "event_store"),
    (IgnoresTheNameOfATask, "events.any_conditions_may_be_combined", "event_store"),
    (KeepsEventsTwice, "events.an_event_that_is_stored_again_is_there_once", "event_store"),
    (OrdersByArrival, "events.those_of_one_time_come_in_the_order_of_their_ids", "event_store"),
    (TurnsThePage, "events.the_limit_takes_the_oldest_where_they_come_first", "event_store"),
    (KnowsItsOwnCursors, "events.any_event_is_a_cursor", "event_store"),
    (FindsEventsByPrefix, "events.names_that_are_much_alike_are_different", "event_store"),
]
