"""Moving what a store holds to another one: its results, its schedules, its tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from omniq.batching import parts, repeated
from omniq.errors import ConfigError, SerializationError, SignatureError, UnsupportedCapability
from omniq.models.task import TERMINAL, TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.graph import components, parents_first
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability, carry_out, look_up
from omniq.storage.records import (
    AddStatus,
    Change,
    ChangeStatus,
    NewTask,
    Past,
    ResultRecord,
    TaskFilter,
    TaskRecord,
    result_bytes,
    task_bytes,
)

R = TypeVar("R")

# ── what has become of it ───────────────────────────────────────────────────


class Unmoved(Struct, frozen=True):
    """Something that stays where it is, and why."""

    kind: str
    """"task", "schedule" or "result"."""
    id: str
    reason: str


class MigrationReport(Struct, kw_only=True):
    """What was moved by one run, or with `dry_run` would be."""

    dry_run: bool = False
    tasks: dict[TaskState, int] = field(default_factory=dict)
    """How many, by the state that they were in at the source."""
    schedules: int = 0
    results: int = 0
    known: int = 0
    """Tasks and schedules that the target had already, from a run before or otherwise: those stayed as they were."""
    paused: list[str] = field(default_factory=list)
    """Queues that are paused at the target now, because they were at the source."""
    running: int = 0
    """Tasks that a worker of the source holds, or held until it died: they can be moved once their lease is over."""
    workers: list[str] = field(default_factory=list)
    """Those that still serve the source: told by a dry run, refused by any other."""
    left: list[Unmoved] = field(default_factory=list)
    """What can't be moved as it is."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left at the source that could be lost or run there."""
        return not (self.left or self.running)

    def count(self, records: Iterable[TaskRecord]) -> None:
        """Take note of tasks that were moved."""
        for record in records:
            self.tasks[record.state] = self.tasks.get(record.state, 0) + 1

    def leave(self, kind: str, id_: str, reason: str) -> None:
        """Take note of what can't be moved; once, though it is tried again."""
        left = Unmoved(kind, id_, reason)
        if left not in self.left:
            self.left.append(left)


Progress: TypeAlias = Callable[[MigrationReport], None]

PAGE: Final = 250
"""Tasks that are moved at once, at most."""
FEW: Final = 25
"""Tasks whose bodies are read at first: then more, as long as they are small."""
SMALL: Final = 1024 * 1024
"""Bytes of bodies that are few."""
HELD_BACK: Final = "a task that it depends on isn't moved"
DUE: Final = (TaskState.PENDING, TaskState.SCHEDULED)
OF_SCHEDULE: Final = 10_000
"""Results of a schedule that are copied, besides those of tasks that are still there: the newest."""


async def again(call: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> R:
    """What a call that is as good twice as once returns; made again where its answer was lost."""
    return await repeated(lambda _: call(*args, **kwargs))


# ── results ─────────────────────────────────────────────────────────────────


class ResultCopier:
    """Copies results that the target hasn't got; they run nowhere, so that they may stay where they were, too."""

    def __init__(self, source: AsyncTaskQueue[Any], target: AsyncTaskQueue[Any], report: MigrationReport) -> None:
        self._from, self._to, self._report = source.stores.results, target.stores.results, report
        self._now = source.stores.clock.now

    async def of_schedule(self, schedule_id: str) -> None:
        """The newest results of a schedule's tasks, the oldest of them first: in this order they are listed."""
        if self._from is not None:
            found = await again(self._find, schedule_id)
            await self._copy(found[::-1])

    async def of_tasks(self, ids: Sequence[str]) -> None:
        """Those by which tasks have ended."""
        if self._from is not None and ids:
            found = await again(_read_results, self._from, ids)
            await self._copy([result for result in found if result is not None and result.is_final])

    async def missing(self, ids: Sequence[str]) -> list[ResultRecord]:
        """Those of these tasks' results that the target hasn't got."""
        if self._from is None:
            return []
        found = await _read_results(self._from, ids)
        return await self._new([result for result in found if result is not None and result.is_final])

    async def _find(self, schedule_id: str) -> list[ResultRecord]:
        assert self._from is not None
        return await self._from.find(schedule_id, limit=OF_SCHEDULE)

    async def _new(self, results: Sequence[ResultRecord]) -> list[ResultRecord]:
        if self._to is None or self._from is None or self._to.location == self._from.location:
            return []
        there = await _read_results(self._to, [result.task_id for result in results])
        pairs = zip(results, there, strict=True)
        return [
            new
            for new, old in pairs
            if old is None or old.epoch < new.epoch or (old.epoch == new.epoch and not old.is_final)
        ]

    async def _copy(self, results: Sequence[ResultRecord]) -> None:
        now, fitting = await self._now(), []
        for result in await again(self._new, results):
            if result.damage is not None:
                self._report.leave("result", result.task_id, f"it is damaged: {result.damage}")
            elif self._to is not None and len(result.body) > self._to.max_item_bytes:
                self._report.leave("result", result.task_id, f"{self._to.location} takes no {len(result.body):,} bytes")
            else:
                ttl = None if result.expires_at is None else max(0.0, result.expires_at - now)
                fitting.append(replace(result, ttl=ttl))
        if fitting and self._to is not None:
            put, id_of = self._to.put, attrgetter("task_id")
            await again(carry_out, self._to, put, fitting, id_of=id_of, size=result_bytes)
            self._report.results += len(fitting)


async def _read_results(store: BaseResultStorage | None, ids: Sequence[str]) -> list[ResultRecord | None]:
    return [] if store is None else await look_up(store, store.get, ids)


# ── tasks ───────────────────────────────────────────────────────────────────


LIVE: Final = frozenset(TaskState) - TERMINAL

Family: TypeAlias = dict[str, TaskRecord]
"""Tasks that have parents or children, by their ids."""


class TaskMover:
    """Moves tasks: adds them at the target, as they are, and then takes them from the source.

    Those that depend on each other are copied, parents first, and then removed, children first: at no time has the
    source a child that nobody holds back, nor the target one whose parent isn't there.
    """

    def __init__(
        self,
        source: AsyncTaskQueue[Any],
        target: AsyncTaskQueue[Any],
        results: ResultCopier,
        report: MigrationReport,
        on_progress: Progress,
    ) -> None:
        self._source, self._target = source.store, target.store
        self._dependencies = target.dependencies
        self._readers = source.serialization, target.serialization
        self._results, self._report, self._on_progress = results, report, on_progress
        self._paused: set[str] = set()
        self._kept: dict[str, str] = {}
        """Of the current round: what stays, and why."""

    async def round(self, *, only_begun: bool = False) -> int:
        """Move all tasks that can be, or `only_begun` those that an earlier run had begun to move, and all that are
        connected with them; returns how many there were."""
        moved, family = 0, Family()
        self._kept, self._report.running = {}, 0
        async for records in self.pages():
            await self._pause({record.queue_name for record in records})
            alone = await self._alone(records, family)
            moved += await self._move(await self._begun(alone) if only_begun else alone)
        connected = components(family)
        if only_begun:
            begun = {record.id for record in await self._begun(list(family.values()))}
            connected = [ids for ids in connected if not begun.isdisjoint(ids)]
        moved += await self._move_family(family, connected)
        others = [left for left in self._report.left if left.kind != "task"]
        self._report.left = others + [Unmoved("task", id_, reason) for id_, reason in self._kept.items()]
        return moved

    async def pages(self) -> AsyncIterator[list[TaskRecord]]:
        """All tasks of the source, without their bodies."""
        async for records in _pages(self._source, TaskFilter()):
            yield records

    async def _begun(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Those that the target has, and not as they were before they ran here."""
        there = await self._there([record.id for record in records])
        return [record for record in records if record.id in there and there[record.id].epoch >= record.epoch]

    async def _pause(self, queues: set[str]) -> None:
        """Let no worker that is started at the source have what is moved."""
        for queue in queues - self._paused:
            await again(self._source.pause, queue, paused=True)
            self._paused.add(queue)

    async def _alone(self, records: Sequence[TaskRecord], family: Family) -> list[TaskRecord]:
        """Those that no other task has to do with and that can be moved; the others come into the family."""
        ids = [record.id for record in records]
        children = await again(look_up, self._source, self._source.children, ids)
        alone: list[TaskRecord] = []
        for record, of_record in zip(records, children, strict=True):
            reason = self.obstacle(record)
            if reason is not None and record.state is not TaskState.RUNNING:
                self._kept[record.id] = reason
            self._report.running += record.state is TaskState.RUNNING
            if record.depends_on or of_record:
                family[record.id] = record
            elif reason is None:
                alone.append(record)
        return alone

    def obstacle(self, record: TaskRecord) -> str | None:
        """Why the task can't be moved, as far as its record tells."""
        if record.damage is not None:
            return f"it is damaged: {record.damage}"
        if record.state is TaskState.RUNNING:
            return "a worker holds it"
        if record.unique is not None and Capability.UNIQUE not in self._target.capabilities:
            return f"unique_key: {self._target.location} can't keep a task unique"
        if record.priority and Capability.PRIORITY not in self._target.capabilities:
            return f"priority: {self._target.location} can't let one task go before others"
        if len(record.body) > self._target.max_item_bytes:
            return f"{self._target.location} takes no {len(record.body):,} bytes"
        return None

    # ── one by one ───────────────────────────────────────────────────────────

    async def _move(self, records: Sequence[TaskRecord]) -> int:
        moved = 0
        async for some in self._with_bodies(records):
            moved += await self._remove(await self._copy(some))
            self._on_progress(self._report)
        return moved

    async def _with_bodies(self, records: Sequence[TaskRecord]) -> AsyncIterator[list[TaskRecord]]:
        """The same tasks as they are now, as many at once as are good to hold."""
        start, size = 0, FEW
        while start < len(records):
            ids = [record.id for record in records[start : start + size]]
            found = await again(look_up, self._source, self._source.get, ids)
            start += size
            size = (
                min(2 * size, PAGE) if sum(len(r.body) for r in found if r is not None) < SMALL else max(1, size // 2)
            )
            yield [record for record in found if record is not None and not self._is_kept(record)]

    def _is_kept(self, record: TaskRecord) -> bool:
        if (reason := self.obstacle(record)) is not None:
            self._kept[record.id] = reason
        return reason is not None

    async def _copy(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Add the tasks at the target; returns those that are there now."""
        there = await self._there([record.id for record in records])
        same = [record for record in records if _is_same(there.get(record.id), record)]
        await self._results.of_tasks(sorted(results_for(same)))
        new = [record for record in records if record.id not in there]
        self._report.known += len(records) - len(new)
        added = await self._add(new)
        self._report.count(added)
        kept = {record.id for record in new} - {record.id for record in added}
        copied = [record for record in records if record.id not in kept]
        if waiting := [record.id for record in copied if record.state is TaskState.WAITING]:
            await again(self._dependencies.children_added, waiting)
        return copied

    async def _there(self, ids: Iterable[str]) -> dict[str, TaskRecord]:
        """The tasks among these that the target has."""
        return await _look_at(self._target, list(ids))

    async def _add(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Add tasks that weren't there yet; returns those that were."""
        records = [record for record in records if not self._is_held_back(record)]
        self._check_signed(records)
        own = {record.id for record in records}
        known = await self._there({parent for record in records for parent in record.depends_on} - own)
        tasks = [_as_new(record, known.keys() | own) for record in records]
        target, id_of = self._target, attrgetter("id")
        answers = await again(carry_out, target, target.add, tasks, id_of=id_of, size=task_bytes)
        added: list[TaskRecord] = []
        for record, answer in zip(records, answers, strict=True):
            if answer.status is AddStatus.NEW or (answer.status is AddStatus.DUPLICATE and answer.holder is None):
                added.append(record)
            elif answer.status is AddStatus.DUPLICATE:
                self._kept[record.id] = self._held_by(answer.holder)
            else:
                self._kept[record.id] = HELD_BACK
        await self._check(added)
        return added

    def _check_signed(self, records: Sequence[TaskRecord]) -> None:
        """Raise `ConfigError` if workers of the target would refuse what those of the source take."""
        here, there = self._readers
        for record in records:
            refusal = None if record.state in TERMINAL else _refusal(record, there)
            if refusal is None or type(_refusal(record, here)) is SignatureError:  # nobody would take it
                continue
            remedy = "give both places the same signing keys, or sign what is there with omniq resign"
            raise ConfigError(f"target: it would refuse task {record.id}: {refusal}; {remedy}")

    def _is_held_back(self, record: TaskRecord) -> bool:
        """Whether one of the task's parents stays at the source."""
        held_back = any(parent in self._kept for parent in record.depends_on)
        if held_back:
            self._kept[record.id] = HELD_BACK
        return held_back

    async def _check(self, records: Sequence[TaskRecord]) -> None:
        """Raise `UnsupportedCapability` if the target hasn't kept what the tasks have behind them."""
        there = await self._there([record.id for record in records])
        for record in records:
            found = there.get(record.id)
            if found is not None and (found.epoch, found.state in TERMINAL) < (record.epoch, record.state in TERMINAL):
                raise UnsupportedCapability(f"{self._target.location} can't add a task with its past")

    async def _remove(self, records: Sequence[TaskRecord]) -> int:
        """Take tasks from the source that are as they were copied; returns how many were."""
        source, id_of = self._source, attrgetter("task_id")
        changes = [_take_away(record) for record in records if record.state not in TERMINAL]
        done = (ChangeStatus.APPLIED, ChangeStatus.REPEATED)
        answers = await again(carry_out, source, source.transition, changes, id_of=id_of)
        taken = [change.task_id for change, answer in zip(changes, answers, strict=True) if answer.status in done]
        gone = [*taken, *(record.id for record in records if record.state in TERMINAL)]
        deleted = [done for some in parts(gone, limit=source.max_items) for done in await again(source.delete, some)]
        if not all(deleted):
            there = await _look_at(source, gone)
            self._kept |= dict.fromkeys(there, "it is at the target, but a task that waits at the source depends on it")
            gone = [id_ for id_ in gone if id_ not in there]
        return len(gone)

    # ── those that depend on each other ──────────────────────────────────────

    async def _move_family(self, family: Family, components_: Sequence[Sequence[str]]) -> int:
        """Move the tasks that depend on each other, all that are connected or none of them."""
        movable: list[Sequence[str]] = []
        holders = await self._holders({record.unique for record in family.values()} - {None})
        for connected in components_:
            stuck = next((id_ for id_ in connected if self._is_stuck(family[id_], holders)), None)
            if stuck is None:
                movable.append(connected)
            elif family[stuck].state is not TaskState.RUNNING:
                others = {id_: f"it is connected with task {stuck}" for id_ in connected if id_ != stuck}
                self._kept |= others
        order = parents_first(family, [id_ for connected in movable for id_ in connected])
        copied: Family = {}
        async for some in self._with_bodies(order):
            copied |= {record.id: replace(record, body=b"") for record in await self._copy(some)}
            self._on_progress(self._report)
        whole = {id_ for connected in movable if copied.keys() >= set(connected) for id_ in connected}
        last_first = [copied[record.id] for record in reversed(order) if record.id in whole]
        return sum([await self._remove(some) for some in parts(last_first, limit=PAGE)])

    async def _holders(self, keys: Set[str | None]) -> dict[str | None, str]:
        """The tasks that hold these unique keys at the target: nothing finds them but a look at all."""
        if not keys:
            return {}
        return {
            record.unique: record.id
            async for records in _pages(self._target, TaskFilter(states=tuple(sorted(LIVE))))
            for record in records
            if record.unique in keys
        }

    def _is_stuck(self, record: TaskRecord, holders: Mapping[str | None, str]) -> bool:
        """Whether a task can't be moved, nor what is connected with it."""
        holder = holders.get(record.unique, record.id)
        if holder != record.id:
            self._kept[record.id] = self._held_by(holder)
        return holder != record.id or self.obstacle(record) is not None

    def _held_by(self, holder: str | None) -> str:
        return f"unique_key: task {holder} has it at {self._target.location}"


async def _pages(store: BaseTaskQueue, where: TaskFilter) -> AsyncIterator[list[TaskRecord]]:
    cursor: str | None = None
    while True:
        page = await again(store.find, where, limit=PAGE, cursor=cursor)
        yield page.tasks
        if page.cursor in (None, cursor):  # it stands still at ids that are no text
            return
        cursor = page.cursor


async def _look_at(store: BaseTaskQueue, ids: Sequence[str]) -> dict[str, TaskRecord]:
    """The tasks among these that a store has, without their bodies."""
    found = await again(look_up, store, partial(store.get, bodies=False), ids)
    return {record.id: record for record in found if record is not None}


def results_for(records: Iterable[TaskRecord]) -> set[str]:
    """The tasks whose results are to be where these are: those that have ended, and parents that a task had waited for,
    which may be purged by now."""
    ended = {record.id for record in records if record.state in TERMINAL}
    return ended.union(*(record.depends_on for record in records if record.state in DUE))


def _is_same(there: TaskRecord | None, record: TaskRecord) -> bool:
    """Whether the target hasn't got the task, or has it as it ended here: not once it has started afresh."""
    return there is None or (there.epoch, there.state) == (record.epoch, record.state)


def _refusal(record: TaskRecord, serialization: SerializationManager) -> SignatureError | None:
    """Why a worker wouldn't take the task's payload for genuine."""
    try:
        serialization.resign_call(
            record.body, task_id=record.id, queue_name=record.queue_name, schedule_id=record.schedule_id
        )
    except SignatureError as error:
        return error
    except SerializationError:  # it is broken, which has nothing to do with keys, and is told when it is run
        return None
    return None


def _as_new(record: TaskRecord, known: Iterable[str]) -> NewTask:
    """The task, to be added with its past, and with those of its parents that aren't long gone."""
    waits = record.state is TaskState.WAITING
    return NewTask(
        id=record.id,
        queue_name=record.queue_name,
        body=record.body,
        name=record.name,
        priority=record.priority,
        run_at=record.run_at,
        ttl=None if record.expires_at is None else record.expires_at - record.run_at,
        depends_on=tuple(parent for parent in record.depends_on if parent in known),
        schedule_id=record.schedule_id,
        unique=record.unique,
        past=Past(
            state=record.state if waits or record.state in TERMINAL else TaskState.PENDING,
            created_at=record.created_at,
            finished_at=record.finished_at if record.state in TERMINAL else None,
            epoch=record.epoch,
            attempts=record.attempts,
            crashes=record.crashes,
        ),
    )


def _take_away(record: TaskRecord) -> Change:
    """The change after which a task can be deleted that hasn't ended."""
    from_states = DUE if record.state in DUE else (record.state,)
    return Change(task_id=record.id, to=TaskState.CANCELLED, from_states=from_states, epoch=record.epoch)
