"""Adding tasks to a store, and signing anew those that are there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from omniq import clock
from omniq.batching import Batcher, parts, repeated
from omniq.config.loader import Security
from omniq.errors import ConfigError, SerializationError, StoreError
from omniq.loops import PerLoop
from omniq.models.event import EventType
from omniq.models.task import KnownTaskId, TaskId
from omniq.queue.policies import DependencyResolver, parents_first, unknown_parent
from omniq.queue.stores import Stores
from omniq.serialization.codec import FOREVER
from omniq.storage.base import ALWAYS_TAKEN, BaseResultStorage, BaseTaskQueue, SizeLimit, carry_out, look_up
from omniq.storage.records import (
    DUPLICATE,
    NEW,
    UNKNOWN_PARENT,
    Added,
    AddStatus,
    NewBody,
    NewTask,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskRecord,
    task_bytes,
)
from omniq.texts import get_logger

Answer: TypeAlias = tuple[Added, bool]
"""What the store said of a new task, and whether it had to be asked more than once."""


class TaskAdder:
    """Adds tasks to one queue. Its errors of the store carry the tasks' ids."""

    def __init__(self, stores: Stores, dependencies: DependencyResolver, max_body: int) -> None:
        self._stores = stores
        self._store = store = stores.queue
        self._dependencies = dependencies
        self._max_body = max_body
        self._surely_fits = min(max_body, ALWAYS_TAKEN)
        self._batches = PerLoop(lambda: Batcher(self._answers, size=task_bytes, max_bytes=store.max_bytes))

    async def check_size(self, body: bytes, func: str, argument: str = "func_args") -> None:
        """Raise `PayloadTooLarge` if the packed call is larger than `max_body` or than the store takes."""
        if len(body) > self._surely_fits:
            await self._store.connect()  # it knows then what it takes
            limit = SizeLimit.of(self._max_body, self._store)
            limit.check(len(body), f"{argument}: the call of {func}")

    async def check_sizes(self, tasks: Sequence[NewTask]) -> None:
        """As `check_size`, for the tasks of many calls."""
        surely_fits = self._surely_fits
        for place in [place for place, task in enumerate(tasks) if len(task.body) > surely_fits]:
            await self.check_size(tasks[place].body, tasks[place].name, f"calls[{place}].func_args")

    async def add(self, task: NewTask, *, own_id: bool) -> TaskId:
        """Add a task, whose id is of our `own` making or the caller's, in one write with others that come now.

        Returns its id, or that of the task which holds its unique key.
        """
        began = clock.now()
        try:
            answer, again = await self._batches.get().submit(task)
            await self._added([task], [answer], began, (task.id,) if own_id and again else ())
        except StoreError as error:
            raise error.about([task.id]) from error.__cause__
        return _id_by(answer, task, ours=own_id and again)

    async def close(self) -> None:
        """Wait until what was given on this loop is stored, or refused."""
        if (batches := self._batches.pop()) is not None:
            await batches.drain()

    async def add_within(self, connection: Any, task: NewTask) -> TaskId:
        """As `add`, in the transaction that the caller has open."""
        await self._store.connect()  # so that its tables are there
        (answer,) = await self._store.add_within(connection, [task])
        if answer.status is AddStatus.UNKNOWN_PARENT:
            raise unknown_parent(task)
        return _id_by(answer, task)

    async def add_many(self, tasks: list[NewTask], own_ids: Collection[str]) -> list[TaskId]:
        """Add tasks, which may depend on each other, in as few writes as possible; returns what `add` does of each.

        Raises `DependencyCycle` too.
        """
        stored: dict[int, TaskId] = {}
        try:
            ordered = parents_first(tasks)
            await repeated(lambda _: self._dependencies.check_parents(ordered))
            for batch in self._parts(ordered):
                began = clock.now()
                answers, again = await self._add(batch)
                ours = own_ids if again else ()
                stored.update(_stored(batch, answers, ours))
                await self._added(batch, answers, began, ours)
        except StoreError as error:
            raise error.about([task.id for task in tasks], added=list(stored.values())) from error.__cause__
        return [stored[id(task)] for task in tasks]

    def _parts(self, tasks: Sequence[NewTask]) -> Iterator[Sequence[NewTask]]:
        store = self._store
        return parts(tasks, task_bytes, limit=store.max_items, max_bytes=store.max_bytes, id_of=_id_of)

    async def _add(self, tasks: Sequence[NewTask]) -> tuple[Sequence[Added], bool]:
        """What the store says of each, and whether it had to be asked more than once."""

        async def add(again: bool) -> tuple[Sequence[Added], bool]:
            return await self._store.add(tasks), again

        return await repeated(add)

    async def _answers(self, tasks: Sequence[NewTask]) -> list[Answer]:
        answered: list[Answer] = []
        for batch in self._parts(tasks):
            answers, again = await self._add(batch)
            answered += [(answer, again) for answer in answers]
        return answered

    async def _added(
        self, tasks: Sequence[NewTask], answers: Sequence[Added], began: float, again: Collection[str]
    ) -> None:
        """What follows an `add`: a look at parents that have ended, events, and an error for unknown parents."""
        family = [(task, answer) for task, answer in zip(tasks, answers, strict=True) if task.depends_on]
        if children := [task.id for task, answer in family if _is_stored(answer)]:
            await repeated(lambda _: self._dependencies.children_added(children))
        await self._tell(tasks, answers, began, again)
        if orphan := next((task for task, answer in family if answer == UNKNOWN_PARENT), None):
            raise unknown_parent(orphan)

    async def _tell(
        self, tasks: Sequence[NewTask], answers: Sequence[Added], began: float, again: Collection[str]
    ) -> None:
        """Tell callbacks and events of new tasks; of several, wait as long as there is no room for their events.

        They are of when the `add` `began`: a worker may have started a task before the reply was here. For ids of our
        own making that the store was asked for `again`, a duplicate is what the first time added.
        """
        events, callbacks = self._stores.events, self._stores.callbacks
        kept = events is not None and events.keeps(EventType.ENQUEUED)
        if not kept and not callbacks.enqueued:
            return
        new = [task for task, answer in zip(tasks, answers, strict=True) if _is_new(task, answer, again)]
        if callbacks.enqueued:
            callbacks.tell_enqueued(new, began)
        if events is not None and kept and len(tasks) > 1:
            await events.log_tasks(EventType.ENQUEUED, new, time=began)
        elif new:
            self._stores.log_task(EventType.ENQUEUED, new[0], time=began)


_id_of = attrgetter("id")


def _is_new(task: NewTask, answer: Added, again: Collection[str]) -> bool:
    return answer.status is AddStatus.NEW or (answer == DUPLICATE and task.id in again)


def _is_stored(answer: Added) -> bool:
    return answer.status is not AddStatus.UNKNOWN_PARENT


def _id_by(answer: Added, task: NewTask, *, ours: bool = False) -> TaskId:
    """The id under which the task is there; `ours`: a duplicate is what this call itself has added."""
    if answer.status is AddStatus.NEW or (ours and answer == DUPLICATE):
        return TaskId(task.id)
    return KnownTaskId(answer.holder or task.id)


def _stored(tasks: Sequence[NewTask], answers: Sequence[Added], ours: Collection[str]) -> dict[int, TaskId]:
    """The id under which each task is there, if it is; by the object, since an id may come twice."""
    if answers.count(NEW) == len(answers):  # as nearly always, and far more quickly
        return {id(task): TaskId(task.id) for task in tasks}
    return {
        id(task): _id_by(answer, task, ours=task.id in ours)
        for task, answer in zip(tasks, answers, strict=True)
        if _is_stored(answer)
    }


# ── signing anew ────────────────────────────────────────────────────────────


log = get_logger("omniq.queue")

PAGE = 200


class Tally(Struct):
    """What became of the payloads of one kind."""

    signed: int = 0
    """Signed with the first key by this call."""
    current: int = 0
    """Signed with it before."""
    changed: int = 0
    """Changed by somebody else at the same time, and left alone."""
    refused: int = 0
    """Damaged, wrongly signed, signed with a key that isn't here, or unsigned."""

    @property
    def left(self) -> int:
        """How many aren't signed with the first key."""
        return self.changed + self.refused


class Report(Struct):
    """What became of everything that was looked at."""

    tasks: Tally = field(default_factory=Tally)
    schedules: Tally = field(default_factory=Tally)
    results: Tally = field(default_factory=Tally)

    @property
    def left(self) -> int:
        """How many payloads aren't signed with the first key."""
        return self.tasks.left + self.schedules.left + self.results.left


class Resigner:
    """Signs the tasks, schedules and results of a queue with the first key.

    Each must verify with one of the keys, or be unsigned where `accept_unsigned` is given. Nothing is decoded, and
    each payload is written only if it is still the one that was read: workers may go on meanwhile. Results are found
    by their tasks; one that is kept for longer than its task isn't reached. Raises `ConfigError` without a key.
    """

    def __init__(self, stores: Stores, security: Security, project: str, *, accept_unsigned: bool = False) -> None:
        if security.signing_key is None:
            raise ConfigError("signing_key: none is set, so there is nothing to sign with")
        if accept_unsigned:
            security = replace(security, accept_unsigned_until=FOREVER)
        self._store = stores.queue
        self._results = stores.results
        self._serialization = security.manager(project)

    async def run(self) -> Report:
        """Sign everything. Raises `StoreError`."""
        report = Report()
        async for ids in self._pages():
            await self._sign_tasks(ids, report.tasks)
            await self._sign_results(ids, report.results)
        for schedule in await self._store.schedules():
            await self._sign_schedule(schedule, report.schedules)
        return report

    async def _pages(self) -> AsyncIterator[list[str]]:
        """The ids of all tasks."""
        cursor: str | None = None
        while True:
            page = await self._store.find(TaskFilter(), limit=PAGE, cursor=cursor)
            yield [task.id for task in page.tasks]
            if page.cursor in (None, cursor):  # it stands still at ids that are no text
                return
            cursor = page.cursor

    async def _sign_tasks(self, ids: Sequence[str], tally: Tally) -> None:
        store = self._store
        records = [record for record in await look_up(store, store.get, ids) if record is not None]
        missing = set(ids) - {record.id for record in records}
        tally.refused += sum(not id_.isprintable() for id_ in missing)  # others were purged meanwhile
        found = ((r.id, r.body, self._try(tally, r.body, partial(self._task, r))) for r in records)
        _count(tally, await _replace(store, _changes(found)))

    async def _sign_results(self, ids: Sequence[str], tally: Tally) -> None:
        if self._results is None:
            return
        found_at = await look_up(self._results, self._results.get, ids)
        records = [record for record in found_at if record is not None]
        found = ((r.task_id, r.body, self._try(tally, r.body, partial(self._result, r))) for r in records)
        _count(tally, await _replace(self._results, _changes(found)))

    async def _sign_schedule(self, schedule: ScheduleRecord, tally: Tally) -> None:
        if schedule.damage is not None:  # which writing it again would hide
            tally.refused += 1
            log.warning("not signed: schedule %s is damaged: %s", schedule.id, schedule.damage)
            return
        signed = self._try(tally, schedule.body, partial(self._schedule, schedule))
        if signed is not None:
            changed = replace(schedule, body=signed)
            _count(tally, [await self._store.put_schedule(changed, if_version=schedule.version)])

    @staticmethod
    def _try(tally: Tally, body: bytes, sign: Callable[[], bytes]) -> bytes | None:
        """The body to write instead of this one, if there is another one to write."""
        try:
            signed = sign()
        except SerializationError as error:
            tally.refused += 1
            log.warning("not signed: %s", error)
            return None
        if signed != body:
            return signed
        tally.current += 1
        return None

    def _task(self, record: TaskRecord) -> bytes:
        return self._serialization.resign_call(
            record.body, task_id=record.id, queue_name=record.queue_name, schedule_id=record.schedule_id
        )

    def _result(self, record: ResultRecord) -> bytes:
        return self._serialization.resign_outcome(
            record.body,
            task_id=record.task_id,
            epoch=record.epoch,
            status=record.status,
            schedule_id=record.schedule_id,
        )

    def _schedule(self, record: ScheduleRecord) -> bytes:
        return self._serialization.resign_schedule(record.body, schedule_id=record.id, queue_name=record.queue_name)


def _changes(found: Iterable[tuple[str, bytes, bytes | None]]) -> list[NewBody]:
    return [NewBody(task_id=id_, old=old, body=new) for id_, old, new in found if new is not None]


async def _replace(store: BaseTaskQueue | BaseResultStorage, bodies: Sequence[NewBody]) -> list[bool]:
    size, id_of = _both_bodies, attrgetter("task_id")
    return await carry_out(store, store.replace_bodies, bodies, id_of=id_of, size=size)


def _both_bodies(new: NewBody) -> int:
    return len(new.old) + len(new.body)


def _count(tally: Tally, replaced: Sequence[bool]) -> None:
    tally.signed += sum(replaced)
    tally.changed += len(replaced) - sum(replaced)
