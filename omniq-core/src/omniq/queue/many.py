"""Many tasks at once: listed in pages, cancelled, requeued and deleted, by conditions that are the same for all."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypedDict, cast

from msgspec import Struct
from msgspec.structs import asdict

from omniq import clock
from omniq.batching import parts, repeated
from omniq.clock import timestamp
from omniq.errors import InvalidTask, SerializationError
from omniq.models.event import EventType
from omniq.models.result import Outcome, TaskResult
from omniq.models.task import QUEUED, DeadLetter, Page, Task, TaskRef, TaskState, check_flags, check_id, id_of
from omniq.queue.policies import DependencyResolver
from omniq.queue.request import task_view, verified_call
from omniq.queue.stores import FEW, Stores
from omniq.results import listed_result
from omniq.storage.base import carry_out, look_up
from omniq.storage.records import Change, Changed, ChangeStatus, ResultRecord, TaskFilter, TaskRecord
from omniq.texts import did_you_mean, encodable

# ── which ───────────────────────────────────────────────────────────────────


class TaskConditions(TypedDict, total=False):
    """Which tasks are meant; conditions that are given must all hold."""

    state: TaskState | str | Collection[TaskState | str] | None
    """One state, or several."""
    queue_name: str | None
    name: str | None
    """The function, as `Task.func` says it."""
    schedule_id: str | None
    """Those that this schedule has enqueued."""
    error: str | None
    """Those whose last error is of this type: its qualified name, or the last part of it."""
    since: dt.datetime | None
    """Those that ended at this (aware) time or later; or were added, where they haven't ended."""
    until: dt.datetime | None
    """Those that did so before this (aware) time."""


class Selection(Struct, frozen=True, kw_only=True):
    """Which tasks are meant, checked."""

    where: TaskFilter
    error: str | None = None
    since: float | None = None
    until: float | None = None

    @classmethod
    def of(cls, conditions: TaskConditions, *, among: Sequence[TaskState] = ()) -> Selection:
        """What the conditions say; `among` are the states that can be meant, all of them if none is given.

        Raises `InvalidTask`, naming the condition.
        """
        given = cast("dict[str, Any]", conditions)
        unknown = next((name for name in given if name not in TaskConditions.__annotations__), None)
        if unknown is not None:
            raise InvalidTask(f"{unknown}: no such condition{did_you_mean(unknown, TaskConditions.__annotations__)}")
        names = {name: given.get(name) for name in ("queue_name", "name", "schedule_id", "error")}
        checked = {name: None if value is None else check_id(value, name) for name, value in names.items()}
        return cls(
            where=TaskFilter(
                states=_states(given.get("state"), among),
                queue_name=checked["queue_name"],
                name=checked["name"],
                schedule_id=checked["schedule_id"],
            ),
            error=checked["error"],
            since=timestamp("since", given.get("since")),
            until=timestamp("until", given.get("until")),
        )

    @property
    def is_told_by_the_store(self) -> bool:
        """Whether the store finds exactly these."""
        return self.error is None and self.since is None and self.until is None

    def may_be(self, record: TaskRecord) -> bool:
        """Whether the task is meant, as far as its record tells."""
        where, at = self.where, record.created_at if record.finished_at is None else record.finished_at
        return (
            (not where.states or record.state in where.states)
            and where.queue_name in (None, record.queue_name)
            and where.name in (None, record.name)
            and where.schedule_id in (None, record.schedule_id)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )

    def is_error(self, result: TaskResult | None) -> bool:
        """Whether a task that ended by this result is meant, as far as its error tells."""
        if self.error is None:
            return True
        name = None if result is None else result.error_type
        return name is not None and (name == self.error or name.endswith(f".{self.error}"))


def _states(state: object, among: Sequence[TaskState]) -> tuple[TaskState, ...]:
    if state is None:
        return tuple(among)
    known = among or tuple(TaskState)
    wanted = [state] if isinstance(state, str) or not isinstance(state, Iterable) else list(state)
    if bad := [each for each in wanted if each not in known] if wanted else [state]:
        raise InvalidTask(f"state: expected one of {', '.join(known)}, or several, got {bad[0]!r:.80}")
    return tuple(dict.fromkeys(TaskState(each) for each in cast("list[str]", wanted)))


# ── what becomes of them ────────────────────────────────────────────────────


PAGE: Final = 500
"""Tasks that are looked at, or changed, in one call."""
DEAD: Final = (TaskState.ERROR,)
REQUEUABLE: Final = (TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED)
WAITING_TO_RUN: Final = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.WAITING)
CANCELLABLE: Final = (*WAITING_TO_RUN, TaskState.RUNNING)


class ManyTasks:
    """Finds tasks by conditions, and changes them in bounded batches; `cancel` cancels a single one.

    Repeating a change is harmless: each task is changed only if it still is as it was found.
    """

    def __init__(
        self, stores: Stores, dependencies: DependencyResolver, cancel: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._stores = stores
        self._store = stores.queue
        self._dependencies = dependencies
        self._cancel_one = cancel

    # ── looking ──────────────────────────────────────────────────────────────

    async def page(
        self, selection: Selection, *, newest_first: bool, limit: int, cursor: str | None
    ) -> Page[TaskRecord]:
        """Up to `limit` of the tasks, from beyond the cursor on."""
        check_flags(newest_first=newest_first)
        size = limit if selection.is_told_by_the_store else max(limit, PAGE)
        found: list[TaskRecord] = []
        while True:
            page = await self._store.find(selection.where, newest_first=newest_first, limit=size, cursor=cursor)
            found += await self._among(selection, page.tasks)
            more = page.cursor not in (None, cursor)  # it stands still at ids that are no text
            if len(found) > limit or (len(found) == limit and more):
                return Page(found[:limit], found[limit - 1].id)
            if not more:
                return Page(found)
            cursor = page.cursor

    async def dead_page(self, page: Page[TaskRecord], *, tracebacks: bool, arguments: bool) -> Page[DeadLetter]:
        """The page with what these tasks failed of, and what else is asked for."""
        check_flags(tracebacks=tracebacks, arguments=arguments)
        results = await self.ends(page)
        with_calls = await self._with_calls(page) if arguments else [None] * len(page)
        letters = [
            self._dead_letter(record, result, with_call, tracebacks=tracebacks)
            for record, result, with_call in zip(page, results, with_calls, strict=True)
        ]
        return Page(letters, page.cursor)

    async def _with_calls(self, records: Sequence[TaskRecord]) -> list[TaskRecord | None]:
        """The same tasks with their bodies, read few at a time."""
        found: list[TaskRecord | None] = []
        for some in parts([record.id for record in records], limit=FEW):
            found += await self._store.get(some)
        return found

    def _dead_letter(
        self, record: TaskRecord, result: TaskResult | None, with_call: TaskRecord | None, *, tracebacks: bool
    ) -> DeadLetter:
        fields, serialization = asdict(task_view(record)), self._stores.serialization
        if result is not None:
            fields |= {"error_type": result.error_type, "error_message": result.error_message}
            fields["traceback"] = result.traceback if tracebacks else None
        if with_call is not None:
            try:
                args, kwargs = serialization.load_arguments(verified_call(with_call, serialization))
                fields |= {"args": tuple(args), "kwargs": dict(kwargs)}
            except SerializationError as error:
                fields["damage"] = record.damage or str(error)
        return DeadLetter(**fields)

    async def ends(self, records: Sequence[TaskRecord]) -> list[TaskResult | None]:
        """By which results these tasks have ended; None where that isn't known any more."""
        results, serialization = self._stores.results, self._stores.serialization
        if results is None:
            return [None] * len(records)
        found = await look_up(results, results.get, [record.id for record in records])
        return [
            listed_result(result, serialization) if result is not None and _ends(result, record) else None
            for record, result in zip(records, found, strict=True)
        ]

    async def _among(self, selection: Selection, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        may_be = [record for record in records if selection.may_be(record)]
        if selection.error is None:
            return may_be
        results = await self.ends(may_be)
        return [record for record, result in zip(may_be, results, strict=True) if selection.is_error(result)]

    async def _batches(self, selection: Selection, ids: Iterable[TaskRef] | None) -> AsyncIterator[list[TaskRecord]]:
        """All of the tasks, the newest first, so that what is added meanwhile isn't among them."""
        if ids is not None:
            wanted = list(dict.fromkeys(id_of(each, "ids") for each in ids))
            for some in parts(wanted, limit=PAGE):
                found = await look_up(self._store, partial(self._store.get, bodies=False), some)
                yield await self._among(selection, [record for record in found if record is not None])
            return
        cursor: str | None = None
        while True:
            page = await self.page(selection, newest_first=True, limit=PAGE, cursor=cursor)
            yield list(page)
            cursor = page.cursor
            if cursor is None:
                return

    # ── changing ─────────────────────────────────────────────────────────────

    async def cancel(self, selection: Selection, ids: Iterable[TaskRef] | None, *, dry_run: bool) -> int:
        """Cancel them; returns how many were, or were asked to stop."""
        return await self._each_batch(self._cancel, selection, ids, dry_run=dry_run)

    async def requeue(self, selection: Selection, ids: Iterable[TaskRef] | None, *, dry_run: bool) -> int:
        """Let them start afresh; returns how many do."""
        return await self._each_batch(self.start_afresh, selection, ids, dry_run=dry_run)

    async def delete(self, selection: Selection, ids: Iterable[TaskRef] | None, *, dry_run: bool) -> int:
        """Delete them, with their results; returns how many were."""
        return await self._each_batch(self._delete, selection, ids, dry_run=dry_run)

    async def purge(self, selection: Selection, *, dry_run: bool) -> int:
        """Cancel them and delete them; returns how many were. Their results are kept, which tell that."""
        check_flags(dry_run=dry_run)
        return await self._each_batch(self._cancel_and_delete, selection, None, dry_run=dry_run)

    async def _each_batch(
        self,
        change: Callable[[Sequence[TaskRecord]], Awaitable[int]],
        selection: Selection,
        ids: Iterable[TaskRef] | None,
        *,
        dry_run: bool,
    ) -> int:
        changed = 0
        async for records in self._batches(selection, ids):
            changed += len(records) if dry_run or not records else await change(records)
        return changed

    async def _cancel(self, records: Sequence[TaskRecord]) -> int:
        queued = [record for record in records if record.state in QUEUED]
        done = {record.id for record in await self._dependencies.end(queued, TaskState.CANCELLED, Outcome())}
        done |= await self._apply([_stop(record) for record in records if record.state is TaskState.RUNNING])
        moved = [record.id for record in records if record.id not in done]  # since they were looked at
        return len(done) + sum([await self._cancel_one(id_) for id_ in moved])

    async def _cancel_and_delete(self, records: Sequence[TaskRecord]) -> int:
        ended = await self._dependencies.end(records, TaskState.CANCELLED, Outcome())
        gone = [record.id for record in ended]
        await repeated(lambda _: self._store.delete(gone, states=(TaskState.CANCELLED,)))
        return len(gone)

    async def start_afresh(self, records: Sequence[TaskRecord]) -> int:
        """Let tasks that ended without success start afresh, if they are as they were seen; returns how many do."""
        began = clock.now()  # a worker may have started one before the reply is here
        done = await self._apply([afresh(record) for record in records])
        for record in records:
            if record.id in done:
                self._stores.log_task(EventType.TASK_REQUEUED, record, time=began)
        return len(done)

    async def _apply(self, changes: Sequence[Change]) -> set[str]:
        """The tasks that were changed; one that isn't as it was seen when the call is repeated was, by the first."""

        async def apply(again: bool) -> set[str]:
            done = (ChangeStatus.APPLIED, ChangeStatus.REFUSED) if again else (ChangeStatus.APPLIED,)
            answers: list[Changed] = await carry_out(
                self._store, self._store.transition, changes, id_of=attrgetter("task_id")
            )
            return {change.task_id for change, a in zip(changes, answers, strict=True) if a.status in done}

        return await repeated(apply) if changes else set()

    async def _delete(self, records: Sequence[TaskRecord]) -> int:
        ids = [record.id for record in records]

        async def delete(again: bool) -> list[bool]:
            deleted = await self._store.delete(ids, states=DEAD)
            left = await look_up(self._store, partial(self._store.get, bodies=False), ids) if again else ids
            return [gone or there is None for gone, there in zip(deleted, left, strict=True)]

        gone = await repeated(delete)
        await self._forget_results([record for record, is_gone in zip(records, gone, strict=True) if is_gone])
        return sum(gone)

    async def _forget_results(self, records: Sequence[TaskRecord]) -> None:
        """Let the results of tasks that are gone expire at once: else they might be kept for ever."""
        results = self._stores.results
        if results is not None and records:
            expired = [
                ResultRecord(task_id=r.id, epoch=r.epoch, status=r.state, body=b"", ttl=0.0, schedule_id=r.schedule_id)
                for r in records
            ]
            put = partial(carry_out, results, results.put, expired, id_of=attrgetter("task_id"))
            await repeated(lambda _: put())


def check_cursor(cursor: object) -> str | None:
    """The cursor. Raises `InvalidTask` for one that no page has had."""
    if cursor is None or (isinstance(cursor, str) and cursor and "\0" not in cursor and cursor == encodable(cursor)):
        return cursor
    raise InvalidTask(f"cursor: expected that of a page, got {cursor!r:.80}")


def afresh(record: TaskRecord) -> Change:
    """The change by which a task that ended without success starts afresh."""
    to, from_states = TaskState.PENDING, (record.state,)
    return Change(task_id=record.id, to=to, from_states=from_states, epoch=record.epoch, fresh=True)


def _stop(record: TaskRecord) -> Change:
    running = (TaskState.RUNNING,)
    return Change(task_id=record.id, to=TaskState.RUNNING, from_states=running, epoch=record.epoch, request_cancel=True)


def _ends(result: ResultRecord, record: TaskRecord) -> bool:
    return (result.epoch, result.status) == (record.epoch, record.state)


def page_of_tasks(page: Page[TaskRecord]) -> Page[Task]:
    """The tasks as lists show them."""
    return Page(map(task_view, page), page.cursor)


def check_meant(conditions: TaskConditions, ids: object, *, all: bool, dry_run: bool) -> None:
    """Raise `InvalidTask` unless it was said which tasks are meant: leaving it out mustn't mean every one."""
    check_flags(all=all, dry_run=dry_run)
    if ids is not None and (isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable)):
        raise InvalidTask(f"ids: expected a list of task ids or tasks, got {type(ids).__name__}")
    if not all and ids is None and not any(value is not None for value in cast("dict[str, Any]", conditions).values()):
        raise InvalidTask("conditions: none is given; say all=True if every task is meant")
