"""Stores that are broken in one place each, and which requirement says so. Each is a few lines over an honest store."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from msgspec.structs import replace
from omniq import clock as wall
from omniq.models.task import TERMINAL, TaskState
from omniq.plugins.specs import StoreKind
from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability, Guarantees, Store
from omniq.storage.documents import DocumentEventStorage, DocumentResultStorage
from omniq.storage.embedded import MemoryTables
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    Firing,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewTask,
    QueueStats,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
)
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore
from omniq.testing.conformance import BackendConformance, Opener
from omniq.testing.conformance.base import areas_of
from omniq.testing.conformance.places import Footprint
from omniq.testing.conformance.suite import files_at
from omniq.testing.reference import DictDocuments
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.events import SQLiteEventStore
from omniq_sqlite.queue import SQLiteQueueStore
from omniq_sqlite.results import SQLiteResultStore

from tests.conformance import planted_details
from tests.conformance.planted_details import Finds, LeavesEntries


class IgnoresTheEpoch(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([replace(change, epoch=None) for change in changes])


class ExtendsForeignLeases(ReferenceQueueStore):
    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        records = await self.get([held.task_id for held in leases])
        return await super().extend(
            [Lease(r.id, r.epoch, r.worker or "") for r in records if r is not None], lease=lease
        )


class RefusesRepeats(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        return [Changed(ChangeStatus.REFUSED) if a.status is ChangeStatus.REPEATED else a for a in answers]


class ReadsThenWrites(ReferenceQueueStore):
    """Its writes overwrite what has happened since its reads."""

    async def _overwrite(self, rows: list[TaskRecord]) -> list[TaskRecord]:
        await asyncio.sleep(0)
        with self.space.lock:
            return [self.space.tasks.put(row) for row in rows]

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        ready = (await self.find(TaskFilter(states=(TaskState.PENDING,)), limit=limit, bodies=True)).tasks
        return await self._overwrite([rules.claimed(row, wall.now(), lease=lease, worker=worker) for row in ready])

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        found = zip(await self.get([lease.task_id for lease in leases]), leases, strict=True)
        lapsed = [row for row, seen in found if row is not None and rules.is_unrenewed(row, seen, wall.now())]
        return await self._overwrite([rules.reaped(row, None) for row in lapsed])

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        return [await self._fire_late(firing) for firing in firings]

    async def _fire_late(self, firing: Firing) -> bool:
        if [schedule.version for schedule in await self.schedules([firing.schedule_id])] != [firing.if_version]:
            return False
        await asyncio.sleep(0)
        (schedule,) = await self.schedules([firing.schedule_id])
        await self.add([firing.task])
        return await self.put_schedule(replace(schedule, next_run=firing.next_run), if_version=schedule.version)


class TakesParentsInAnyOrder(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        answers = dict(zip(tasks, await super().add(sorted(tasks, key=lambda t: len(t.depends_on))), strict=True))
        return [answers[task] for task in tasks]


class ForgetsPasts(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await super().add([replace(task, past=None) for task in tasks])


class ForgetsPauses(ReferenceQueueStore):
    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await super().pause(queue_name, paused=False)


class PagesByNumber(Finds):
    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        start, limit = int(how.pop("cursor") or 0), how.pop("limit")
        found = (await super().page(where, **how, limit=start + limit)).tasks[start:]
        return TaskPage(found, str(start + limit) if len(found) == limit else None)


class OrdersByPrefix(Finds):
    """As an index does that keeps the first 500 bytes of an id."""

    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        page = await super().page(where, **how)
        cut = sorted(page.tasks, key=lambda task: (task.id.encode()[:500], -len(task.id)), reverse=how["newest_first"])
        return TaskPage(cut, page.cursor)


class BringsBodies(Finds):
    async def page(self, where: TaskFilter, **how: Any) -> TaskPage:
        return await super().page(where, **{**how, "bodies": True})


class PurgesByBirth(ReferenceQueueStore):
    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        ended = (await self.find(TaskFilter(states=tuple(TERMINAL)), bodies=True)).tasks
        with self.space.lock:
            for row in ended:
                self.space.tasks.put(replace(row, finished_at=row.created_at))
        return await super().purge(older_than=older_than, states=states, limit=limit)


class LeavesEdges(ReferenceQueueStore):
    """The edges of tasks that are purged stay."""

    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        edges = {parent: dict(children) for parent, children in self.space.tasks._children.items()}
        gone = await super().purge(older_than=older_than, states=states, limit=limit)
        self.space.tasks._children.update(edges)
        self.space.tasks._is_awaited = lambda task_id: False  # type: ignore[method-assign]
        return gone


class ForgetsParents(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await super().add([replace(task, depends_on=()) for task in tasks])


class SleepsThrough(ReferenceQueueStore):
    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await asyncio.sleep(timeout)


class Spins(ReferenceQueueStore):
    """Overdue tasks of a paused queue end every wait."""

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        overdue = {queue.name for queue in await self.stats() if queue.oldest_due is not None}
        if overdue.isdisjoint(queues):
            await super().wait(queues, timeout)
        await asyncio.sleep(0)


class StoresResultsFirst(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        await ReferenceResultStore(self.space).put([c.result for c in changes if c.result is not None])
        return await super().transition([replace(change, result=None) for change in changes])


class StoresResultsLast(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition([replace(change, result=None) for change in changes])
        await asyncio.sleep(0)
        applied = [a.status is ChangeStatus.APPLIED for a in answers]
        late = [c.result for c, holds in zip(changes, applied, strict=True) if holds and c.result is not None]
        await ReferenceResultStore(self.space).put(late)
        return answers


class DropsResults(ReferenceQueueStore):
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.PRIORITY, Capability.UNIQUE})

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([replace(change, result=None) for change in changes])


class NamesNoResults(ReferenceQueueStore):
    def result_storage(self) -> Any:
        return None


class NamesOtherResults(ReferenceQueueStore):
    def result_storage(self) -> ReferenceResultStore:
        return ReferenceResultStore()


class TakesNegativeTimesForNever(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await super().add([replace(t, run_at=1e12) if (t.run_at or 0.0) < 0 else t for t in tasks])


class Promises(ReferenceQueueStore):
    async def guarantees(self) -> Guarantees:
        return replace(await super().guarantees(), survives_process_kill=True, survives_power_loss=True)


class PromisesPush(ReferenceQueueStore):
    async def guarantees(self) -> Guarantees:
        return replace(await super().guarantees(), push=True, clock="server")


class SharesOnePlace(ReferenceQueueStore):
    """All projects are in one space, though it tells apart where they are."""

    def __init__(self, project: str) -> None:
        super().__init__("one for all")
        self._project = project

    @property
    def location(self) -> str:
        return f"reference:{self._project}"


class DropsItsNeighbours(ReferenceQueueStore):
    async def drop(self) -> None:
        for space in list(_spaces().values()):
            space.clear()


class DropsTasksOnly(ReferenceQueueStore):
    async def drop(self) -> None:
        schedules = self.space.schedules
        await super().drop()
        self.space.schedules = schedules


def _spaces() -> dict[str, Any]:
    return {location: heap for (_, location), heap in MemoryTables._named.items()}


class ForgetsEpochs(ReferenceQueueStore):
    """A task that is requeued begins at epoch 0 again, as if nobody had ever held it."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        for change in changes:
            (row,) = await self.get([change.task_id])
            if change.fresh and row is not None:
                self.space.tasks.put(replace(row, epoch=0))
        return answers


class KeepsKeysForEver(ReferenceQueueStore):
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        before = dict(self.space.tasks._holders)
        answers = await super().transition(changes)
        self.space.tasks._holders.update(before)
        return answers


class RepeatsVersions(ReferenceQueueStore):
    """Which a scheduler that stalled takes for the one that it has seen."""

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        return await super().put_schedule(replace(schedule, version=0), if_version=if_version)


class ClaimsWithoutEnd(ReferenceQueueStore):
    @property
    def _limit(self) -> float:
        return math.inf

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        with self.space.lock:
            args: dict[str, Any] = {"limit": limit, "max_bytes": self._limit, "lease": lease, "worker": worker}
            return self.space.tasks.claim(queues, wall.now(), **args)


class CountsWholeSeconds(ReferenceQueueStore):
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return await super().add([replace(t, run_at=t.run_at and float(int(t.run_at))) for t in tasks])


class ChargesTheLiving(ReferenceQueueStore):
    async def beat(self, worker: Any, *, leaving: bool = False) -> bool:
        """Notes nothing."""
        return False


class HidesPausedQueues(ReferenceQueueStore):
    async def stats(self) -> list[QueueStats]:
        return [queue for queue in await super().stats() if sum(queue.counts.values())]


class ReleasesEarly(ReferenceQueueStore):
    """A delay of a retry is forgotten."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return await super().transition([replace(change, delay=change.delay and 0.0) for change in changes])


class ReapsTheRenewed(ReferenceQueueStore):
    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        now = await self.get([lease.task_id for lease in leases])
        fresh = [replace_lease(seen, row) for seen, row in zip(leases, now, strict=True) if row is not None]
        return await super().reap(fresh)


def replace_lease(seen: LapsedLease, row: TaskRecord) -> LapsedLease:
    return LapsedLease(seen.task_id, row.epoch, row.worker or "", row.lease_until or 0.0)


class KeepsTheLastResult(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return [self.space.results.put(replace(record, epoch=99), wall.now()) for record in records]


class LetsProgressReplaceAnEnd(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        newer = [replace(r, epoch=r.epoch + 1) if r.status is TaskState.RUNNING else r for r in records]
        return await super().put(newer)


class RefusesAllForOne(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        found = await self.get([record.task_id for record in records])
        if all(old is None or rules.gives_way(old, new) for old, new in zip(found, records, strict=True)):
            return await super().put(records)
        return [False] * len(records)


class KeepsProgressForEver(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await super().put([replace(r, ttl=r.ttl if r.is_final else None) for r in records])


class IsSilentAboutProgress(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        if any(record.is_final for record in records):
            return await super().put(records)
        return [self.space.results.put(record, wall.now()) for record in records]


class KeepsResultsForEver(ReferenceResultStore):
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        return await super().put([replace(record, ttl=None) for record in records])


class PurgesTheNewest(ReferenceEventStore):
    async def purge(self, *, before: float, limit: int = 1000) -> int:
        old = [row for row in self.space.events if row[0] < before][-limit:]
        self.space.events = [row for row in self.space.events if row not in old[1:]]
        return len(old)


class LeakyEvents(DocumentEventStorage):
    def __init__(self, project: str) -> None:
        super().__init__(LeavesEntries())


class SoundEvents(DocumentEventStorage):
    """This one is honest."""

    def __init__(self, project: str) -> None:
        super().__init__(DictDocuments())


class SoundResults(DocumentResultStorage):
    """This one is honest, too."""

    def __init__(self, project: str) -> None:
        super().__init__(DictDocuments())


class LeaksErrors(SQLiteQueueStore):
    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        try:
            return await super().get(ids, bodies=bodies)
        except Exception as error:
            raise sqlite3.OperationalError("unable to open database file") from error


class NeverCloses(SQLiteQueueStore):
    async def close(self) -> None:
        """Safe to repeat."""


class PolledQueue(SQLiteQueueStore):
    """It says that it pushes, and looks now and then."""

    capabilities: ClassVar[frozenset[Capability]] = SQLiteQueueStore.capabilities | {Capability.PUSH}

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await asyncio.sleep(min(timeout, 1.0))


class WritesCarelessly(SQLiteQueueStore):
    """Nothing is synced, whatever is promised."""

    async def connect(self) -> None:
        await super().connect()
        with self._connection._writer._link.use() as connection:
            connection.execute("pragma synchronous = off")

    async def guarantees(self) -> Guarantees:
        return replace(await super().guarantees(), survives_power_loss=True)


class LeavesItsFile(SQLiteQueueStore):
    async def drop(self) -> None:
        tasks = (await self.find(TaskFilter(), limit=1000)).tasks
        await self.transition(
            [Change(task_id=t.id, to=TaskState.CANCELLED, from_states=tuple(TaskState)) for t in tasks]
        )
        await self.purge(older_than=-1)


class Planted(NamedTuple):
    """A broken store, and a requirement that it doesn't fulfil."""

    broken: type[Store]
    requirement: str
    kind: StoreKind = "task_queue"


QUEUES: list[tuple[type[BaseTaskQueue], str]] = [
    (IgnoresTheEpoch, "queue.transition.a_late_worker_is_refused"),
    (IgnoresTheEpoch, "queue.transition.of_two_epochs_the_older_never_wins"),
    (ExtendsForeignLeases, "queue.lease.a_lease_is_lost_to_the_next_claim"),
    (RefusesRepeats, "queue.transition.a_repeated_finish_is_told_from_a_late_one"),
    (ReadsThenWrites, "queue.claim.concurrent_claims_share_the_tasks"),
    (ReadsThenWrites, "queue.lease.a_lapse_is_charged_once"),
    (ReadsThenWrites, "queue.transition.cancel_and_claim_exclude_each_other"),
    (ReadsThenWrites, "queue.schedule.of_concurrent_callers_one_fires"),
    (TakesParentsInAnyOrder, "queue.add.a_parent_may_not_come_later_in_the_call"),
    (ForgetsPasts, "queue.add.its_claims_go_on_counting"),
    (ForgetsPasts, "queue.add.one_that_has_ended_stays_ended"),
    (ForgetsParents, "queue.upkeep.a_waiting_childs_parent_is_kept"),
    (ForgetsPauses, "queue.claim.a_paused_queue_is_passed_over"),
    (PagesByNumber, "queue.read.tasks_added_meanwhile_move_no_others"),
    (OrdersByPrefix, "queue.read.long_ids_are_in_order_too"),
    (BringsBodies, "queue.read.bodies_are_told_only_where_they_are_asked_for"),
    (PurgesByBirth, "queue.upkeep.an_age_counts_from_the_end"),
    (LeavesEdges, "queue.upkeep.a_deleted_parent_has_no_children"),
    (SleepsThrough, "queue.wait.it_ends_when_a_task_is_added"),
    (Spins, "queue.wait.whoever_has_nothing_to_claim_waits"),
    (StoresResultsFirst, "queue.atomic.a_refused_changes_result_is_not_stored"),
    (StoresResultsLast, "queue.atomic.nobody_sees_an_end_without_its_result"),
    (StoresResultsLast, "queue.atomic.a_cancelled_end_is_whole_or_none"),
    (DropsResults, "queue.capability.a_result_is_stored_or_refused_but_never_dropped"),
    (NamesNoResults, "queue.capability.a_queue_of_a_store_that_keeps_results_names_them"),
    (NamesOtherResults, "queue.capability.results_go_where_the_queue_is"),
    (TakesNegativeTimesForNever, "queue.add.a_run_at_may_be_as_long_ago_as_anybody_likes"),
    (Promises, "queue.capability.nothing_is_promised_that_is_not_declared"),
    (Promises, "queue.capability.a_promise_rests_on_evidence"),
    (PromisesPush, "queue.capability.nothing_is_promised_that_is_not_declared"),
    (SharesOnePlace, "queue.project.tasks_are_kept_apart"),
    (SharesOnePlace, "queue.project.schedules_and_workers_are_kept_apart"),
    (DropsItsNeighbours, "queue.drop.another_project_at_the_place_is_untouched"),
    (DropsTasksOnly, "queue.drop.nothing_is_found_afterwards"),
    (ForgetsEpochs, "queue.transition.a_requeued_task_starts_afresh"),
    (KeepsKeysForEver, "queue.unique.a_task_that_ends_gives_it_up"),
    (RepeatsVersions, "queue.schedule.the_version_rises_by_one"),
    (ClaimsWithoutEnd, "queue.claim.no_more_bytes_than_max_bytes_are_handed_out"),
    (CountsWholeSeconds, "queue.add.a_run_at_is_kept_and_wins_over_the_delay"),
    (ChargesTheLiving, "queue.lease.a_worker_that_was_seen_since_is_not_charged"),
    (HidesPausedQueues, "queue.read.a_paused_queue_is_there_without_tasks"),
    (ReleasesEarly, "queue.transition.with_a_delay_it_is_due_later"),
    (ReapsTheRenewed, "queue.lease.a_lease_that_was_renewed_since_it_was_seen_is_left_alone"),
    (LeaksErrors, "queue.place.errors_of_a_place_that_cannot_be_reached_are_store_errors"),
    (NeverCloses, "queue.place.what_is_closed_is_closed"),
    (PolledQueue, "queue.process.a_wait_is_ended_at_once"),
    (WritesCarelessly, "queue.capability.a_promise_rests_on_evidence"),
    (LeavesItsFile, "queue.drop.a_place_is_as_it_was"),
]
OTHERS: list[tuple[type[BaseResultStorage] | type[Store], str, StoreKind]] = [
    (KeepsTheLastResult, "results.a_newer_claims_result_wins", "result_store"),
    (KeepsResultsForEver, "results.an_expired_result_is_none", "result_store"),
    (LetsProgressReplaceAnEnd, "results.progress_never_replaces_the_end_of_its_claim", "result_store"),
    (LetsProgressReplaceAnEnd, "results.of_an_end_and_concurrent_progress_the_end_stays", "result_store"),
    (RefusesAllForOne, "results.of_a_batch_only_late_progress_is_refused", "result_store"),
    (KeepsProgressForEver, "results.progress_goes_as_results_do", "result_store"),
    (IsSilentAboutProgress, "results.it_comes_whenever_progress_is_stored", "result_store"),
    (PurgesTheNewest, "events.only_events_from_before_are_deleted", "event_store"),
    (LeakyEvents, "events.purged_events_leave_no_traces", "event_store"),
]
PLANTED = [
    *(Planted(*each) for each in QUEUES + planted_details.QUEUES),
    *(Planted(*each) for each in OTHERS + planted_details.OTHERS),
]


# ── the suite over each, for a run of its own: see test_planted ──────────────


def open_planted(broken: type[Store], kind: StoreKind, folder: str, of: StoreKind, project: str) -> Any:
    """The broken store if it is of the kind that is asked for, and else an honest one at the same place."""
    if issubclass(broken, SQLiteQueueStore):
        config = SQLiteTaskQueueConfig(base_dir=folder, project_name=project)
        stores: dict[StoreKind, Any] = {
            "task_queue": broken,
            "result_store": SQLiteResultStore,
            "event_store": SQLiteEventStore,
        }
        return stores[of](config)
    store: Any = broken if of == kind else HONEST[of]
    return store(project)


def open_unreachable(broken: type[SQLiteQueueStore], of: StoreKind, project: str) -> Any:
    """One whose folder can't be made."""
    return broken(SQLiteTaskQueueConfig(base_dir="/dev/null/place", project_name=project))


def suite_of(broken: type[Any], kind: StoreKind, rooms: set[str] | None = None) -> type[BackendConformance]:
    """A class to be collected: the whole suite, or only what the ids of requirements begin with."""

    class TestIt(BackendConformance):
        @pytest.fixture
        def opener(self, tmp_path: Path) -> Opener:
            return partial(open_planted, broken, kind, str(tmp_path))

        @pytest.fixture
        def unreachable(self) -> Opener:
            return partial(open_unreachable, broken)

        @pytest.fixture
        def footprint(self, tmp_path: Path) -> Footprint:
            return partial(files_at, str(tmp_path))

        @pytest.fixture
        def entries(self, store: Any) -> Footprint:
            async def entries() -> dict[str, int]:
                return {name: len(index) for name, index in store.documents._indexes.items()}

            return entries

    for attribute, area in areas_of(BackendConformance):
        if rooms is not None and area.area not in rooms:
            setattr(TestIt, attribute, None)
    return TestIt


HONEST: dict[StoreKind, type[Any]] = {
    "task_queue": ReferenceQueueStore,
    "result_store": ReferenceResultStore,
    "event_store": ReferenceEventStore,
}


def honest_one(broken: type[Any]) -> type[Any]:
    """What the store was before it was broken."""
    known: list[type[Any]] = [SQLiteQueueStore, *HONEST.values()]
    sound = SoundResults if issubclass(broken, BaseResultStorage) else SoundEvents
    found: type[Any] = next((base for base in known if issubclass(broken, base)), sound)
    return found


_rooms: dict[tuple[type[Any], StoreKind], set[str]] = {}
for _each in PLANTED:
    for _store in (_each.broken, honest_one(_each.broken)):
        _rooms.setdefault((_store, _each.kind), set()).add(_each.requirement.rpartition(".")[0])
for (_store, _kind), _names in _rooms.items():
    globals()[f"Test{_store.__name__}"] = suite_of(_store, _kind, _names)
