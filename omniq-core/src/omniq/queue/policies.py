"""What becomes of tasks: where they are kept and how they end; retries, when they expire, and who waits for whom."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from graphlib import CycleError, TopologicalSorter
from operator import attrgetter
from typing import Final, NamedTuple, Unpack

from msgspec.structs import replace

from omniq import clock
from omniq.batching import repeated
from omniq.callbacks import CallbackManager, check_callbacks
from omniq.errors import (
    CorruptPayload,
    DependencyCycle,
    KeyMissing,
    SerializationError,
    StoreUnavailable,
    UnknownParent,
)
from omniq.events.logger import AnyTask, AsyncEventLogger, EventFields
from omniq.models.config import DEAD_LETTER_RETENTION
from omniq.models.event import EventType
from omniq.models.result import Outcome, TaskResult
from omniq.models.task import DEFAULT_RETRY, Call, TaskState
from omniq.queue.request import UNREADABLE, log, read_call, verified_call
from omniq.results import task_result
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import (
    BaseResultStorage,
    BaseTaskQueue,
    Capability,
    carry_out,
    change_bytes,
    look_up,
    result_bytes,
)
from omniq.storage.breakers import breakers_of
from omniq.storage.records import (
    BreakerStatus,
    Change,
    Changed,
    ChangeStatus,
    NewTask,
    ResultRecord,
    TaskFilter,
    TaskRecord,
)

# ── the store's clock ───────────────────────────────────────────────────────


ASK_AGAIN = 30.0
"""Seconds after which a store's clock is asked again."""


class StoreClock:
    """The clock of a queue's store, which alone says what is due: those of hosts differ.

    It is asked seldom, since what passes in between can be measured here.
    """

    def __init__(self, store: BaseTaskQueue) -> None:
        self._store = store
        self._ahead = 0.0
        """Seconds by which the store's clock is ahead of `time.monotonic()`, without `omniq.clock.offset()`."""
        self._asked_at = -math.inf

    async def now(self) -> float:
        """Seconds since the epoch on the store's clock. Raises `StoreError`."""
        if time.monotonic() - self._asked_at > ASK_AGAIN:
            await self._ask()
        return time.monotonic() + self._ahead + clock.offset()

    async def _ask(self) -> None:
        began = time.monotonic()
        now = await self._store.now() - clock.offset()
        self._asked_at = time.monotonic()
        self._ahead = now - (began + self._asked_at) / 2


# ── the stores ──────────────────────────────────────────────────────────────


ENDINGS = {
    TaskState.CANCELLED: EventType.CANCELLED,
    TaskState.EXPIRED: EventType.EXPIRED,
}

DUE = (TaskState.PENDING, TaskState.SCHEDULED)


class Ended(NamedTuple):
    """A task that was ended without being run, as it was last seen."""

    record: TaskRecord
    call: Call
    change: Change
    has_children: bool


def kept_for(call: Call, to: TaskState, dead_letters: float | None) -> float | None:
    """Seconds for which the result of a task that ends so is kept, None for ever: a dead letter's as long as it is."""
    if to is not TaskState.ERROR or call.result_ttl is None:
        return call.result_ttl
    return None if dead_letters is None else max(call.result_ttl, dead_letters)


class Stores:
    """Where a queue's tasks, their results and events are, and what packs their payloads. Built once, never changed.

    Where queue and results share one location and the store can, a change and its result are written in one atomic
    step; elsewhere the results go first, so that a task is never seen as ended without one. A result that was
    written for a change which is then refused has an older epoch than the accepted one and gives way to it.
    """

    def __init__(
        self,
        queue: BaseTaskQueue,
        results: BaseResultStorage | None,
        events: AsyncEventLogger | None,
        serialization: SerializationManager,
        callbacks: CallbackManager | None = None,
    ) -> None:
        self.queue: Final = queue
        self.results: Final = results
        """Where results go; None if they are kept nowhere."""
        self.events: Final = events
        self.serialization: Final = serialization
        self.callbacks: Final = check_callbacks(callbacks)
        self.clock: Final = StoreClock(queue)
        self.atomic: Final = (
            results is not None
            and Capability.ATOMIC_RESULTS in queue.capabilities
            and results.location == queue.location
        )
        """Whether a result is stored in the very step that ends its task."""
        self.apart: Final = results is not None and results.location != queue.location
        """Whether results can be away while tasks aren't."""
        self.max_bytes: Final = min(store.max_bytes for store in (queue, results) if store is not None)
        """Bytes of bodies that one call to settle brings at most."""

    @property
    def breakers(self) -> tuple[BreakerStatus, ...]:
        """The circuit breakers of all of them, as they are in this process."""
        return breakers_of(self.queue, self.results, None if self.events is None else self.events.store)

    def keeps(self, type: EventType) -> bool:
        """Whether events of this type are kept."""
        return self.events is not None and self.events.keeps(type)

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event, if events are kept."""
        if self.events is not None:
            self.events.log(type, **fields)

    def log_task(self, type: EventType, task: AnyTask, **fields: Unpack[EventFields]) -> None:
        """As `log`, of a task."""
        if self.events is not None:
            self.events.log_task(type, task, **fields)

    def log_failed(self, task: AnyTask, **fields: Unpack[EventFields]) -> None:
        """Take the events of a task that has failed for good."""
        self.log_task(EventType.ERROR, task, **fields)
        self.log_task(EventType.DEAD_LETTERED, task, **fields)

    async def settle(self, changes: Sequence[Change]) -> list[Changed]:
        """Apply the changes and store their results, in calls that no store finds too large.

        Raises `StoreError` when a store failed: try again then; and `PayloadTooLarge` for a result that it won't take.
        """
        size, most = change_bytes, self.max_bytes
        return await carry_out(self.queue, self._settle, changes, id_of=_id_of, size=size, max_bytes=most)

    async def _settle(self, changes: Sequence[Change]) -> list[Changed]:
        if not self.atomic:
            changes = await self._results_first(changes)
        return await self.queue.transition(changes)

    async def answers(self) -> bool:
        """Whether the stores can be reached just now."""
        try:
            await self.queue.get(["any"], bodies=False)
            if not self.atomic and self.results is not None:
                await self.results.get(["any"])
        except StoreUnavailable:
            return False
        return True

    async def end(
        self,
        records: Sequence[TaskRecord],
        to: TaskState,
        outcome: Outcome,
        *,
        if_expired: bool = False,
        dead_letters: float | None = DEAD_LETTER_RETENTION,
    ) -> list[Ended]:
        """End tasks that no worker holds, as they were last seen; returns those that this call ended.

        Made again where the answer was lost: what is found done then was done by the first call. Their children are
        left to whoever calls. `dead_letters` is for how many seconds those are kept.
        """
        if not records:
            return []
        calls = await self.calls(records)
        changes = [
            ending(record, to, outcome, self.serialization, if_expired=if_expired, ttl=kept_for(call, to, dead_letters))
            for record, call in zip(records, calls, strict=True)
        ]

        async def settle(again: bool) -> list[Changed]:
            changed = await self.settle(changes)
            return [_as_applied(each) for each in changed] if again else changed

        answers = zip(records, calls, changes, await repeated(settle), strict=True)
        ended = [
            Ended(record, call, change, done.has_children)
            for record, call, change, done in answers
            if done.status is ChangeStatus.APPLIED
        ]
        self._log_ended([each.record for each in ended], to, outcome)
        if self.callbacks.ended:
            for each in ended:
                self.callbacks.tell_ended(each.record, self.result_of(each.change))
        return ended

    def result_of(self, change: Change) -> TaskResult:
        """The result that a task has ended with just now, as users see it."""
        assert change.result is not None
        return task_result(replace(change.result, finished_at=clock.now()), self.serialization)

    def _log_ended(self, records: Sequence[TaskRecord], to: TaskState, outcome: Outcome) -> None:
        for record in records:
            if to is TaskState.ERROR:
                self.log_failed(record, data={"error_type": outcome.error_type})
            else:
                self.log_task(ENDINGS[to], record)

    async def calls(self, records: Sequence[TaskRecord]) -> list[Call]:
        """The calls of tasks, which say what is to become of their results and whom to tell; read few at a time."""
        calls: list[Call] = []
        for start in range(0, len(records), FEW):
            ids = [record.id for record in records[start : start + FEW]]
            found = await repeated(partial(self._get, ids))
            calls += [UNREADABLE if record is None else read_call(record, self.serialization) for record in found]
        return calls

    async def end_damaged(
        self, records: Sequence[TaskRecord], *, dead_letters: float | None = DEAD_LETTER_RETENTION
    ) -> list[Ended]:
        """As `end`: dead-letter tasks whose rows are damaged."""
        ended: list[Ended] = []
        for record in records:
            ended += await self.end([record], TaskState.ERROR, damaged(record), dead_letters=dead_letters)
        return ended

    async def _get(self, ids: Sequence[str], _: bool) -> list[TaskRecord | None]:
        return await self.queue.get(ids)

    async def _results_first(self, changes: Sequence[Change]) -> list[Change]:
        records = [change.result for change in changes if change.result is not None]
        if records and self.results is not None:
            await carry_out(self.results, self.results.put, records, id_of=_id_of, size=result_bytes)
        return [change if change.result is None else replace(change, result=None) for change in changes]


_id_of = attrgetter("task_id")


def _as_applied(changed: Changed) -> Changed:
    return replace(changed, status=ChangeStatus.APPLIED) if changed.status is ChangeStatus.REPEATED else changed


def ending(
    record: TaskRecord,
    to: TaskState,
    outcome: Outcome,
    serialization: SerializationManager,
    *,
    if_expired: bool = False,
    ttl: float | None,
) -> Change:
    """The change that ends a task as it was last seen, with its result."""
    return Change(
        task_id=record.id,
        to=to,
        from_states=DUE if record.state in DUE else (record.state,),
        epoch=record.epoch,
        if_expired=if_expired,
        result=ResultRecord(
            task_id=record.id,
            epoch=record.epoch,
            status=to,
            body=serialization.pack_outcome(
                outcome, task_id=record.id, epoch=record.epoch, status=to, schedule_id=record.schedule_id
            ),
            ttl=ttl,
            schedule_id=record.schedule_id,
        ),
    )


def damaged(record: TaskRecord) -> Outcome:
    """How a task ends whose stored row is damaged."""
    kind = f"{CorruptPayload.__module__}.{CorruptPayload.__qualname__}"
    return Outcome(error_type=kind, error_message=f"the stored task is damaged: {record.damage}")


# ── retries ─────────────────────────────────────────────────────────────────


class RetryManager:
    """Exponential backoff with jitter.

    The delay before retry *n* is `retry_delay * factor ** (n - 1)`, at most `maximum` seconds, of which a share, the
    `jitter`, is drawn by lot, so that tasks which failed together don't come back together. A half of it is "equal
    jitter", all of it "full jitter" in Brooker, "Exponential Backoff and Jitter" (AWS, 2015).
    """

    def __init__(self, *, seed: int | None = None) -> None:
        self._random = random.Random(seed)

    def delay(self, call: Call, attempt: int) -> float:
        """Seconds to wait after `attempt` (1 for the first) has failed."""
        rule = call.retry or DEFAULT_RETRY
        full = min(rule.maximum, call.retry_delay * rule.factor ** min(attempt - 1, 64))
        return full * (1.0 - rule.jitter * self._random.random())

    @staticmethod
    def exhausted(attempt: int, max_retries: int) -> bool:
        """Whether the attempt that has just failed was the last one."""
        return attempt > max_retries


# ── dependencies ────────────────────────────────────────────────────────────


CHILDREN_AT_ONCE = 500
FEW = 25
"""Tasks whose calls are read at once, since those may be large."""
MAX_WATCHED = 10_000
"""Waiting tasks of which one parent is remembered."""

PARENT_FAILED = Outcome(error_type="ParentFailed", error_message="a task that it depends on didn't succeed")


class DependencyResolver:
    """Releases waiting tasks whose parents have succeeded, and ends or holds those whose parents have not."""

    def __init__(
        self,
        stores: Stores,
        *,
        on_ended: Callable[[Ended], None] | None = None,
        dead_letters: float | None = DEAD_LETTER_RETENTION,
    ) -> None:
        """`on_ended` is told of each task that this ends; `dead_letters` is for how many seconds those are kept."""
        self._stores = stores
        self._on_ended = on_ended
        self._dead_letters = dead_letters
        self._awaited: dict[str, str] = {}
        """For children that were seen to wait, a parent that hadn't ended then: as long as it hasn't, they wait."""

    async def end(
        self, records: Sequence[TaskRecord], to: TaskState, outcome: Outcome, *, if_expired: bool = False
    ) -> list[TaskRecord]:
        """End tasks that no worker holds, and see to their children; returns those that this call ended.

        This is how tasks are cancelled, expire and are dead-lettered without being run.
        """
        keep = self._dead_letters
        return await self._ended(await self._stores.end(records, to, outcome, if_expired=if_expired, dead_letters=keep))

    async def end_damaged(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """As `end`: dead-letter tasks whose rows are damaged."""
        return await self._ended(await self._stores.end_damaged(records, dead_letters=self._dead_letters))

    async def _ended(self, ended: Sequence[Ended]) -> list[TaskRecord]:
        self._tell(ended)
        await self.parents_ended([each.record.id for each in ended if each.has_children])
        return [each.record for each in ended]

    def _tell(self, ended: Sequence[Ended]) -> None:
        if self._on_ended is not None:
            for each in ended:
                self._on_ended(each)

    async def parents_ended(self, parent_ids: Sequence[str], succeeded: Collection[str] = frozenset()) -> None:
        """See to the children of tasks that have ended, and to the children of those that this ends.

        Those that are known to have `succeeded` needn't be read for that.
        """
        while parent_ids:
            store = self._stores.queue
            families = await look_up(store, store.children, parent_ids)
            undecided = await self._undecided(dict(zip(parent_ids, families, strict=True)), succeeded)
            parent_ids = await self._resolve(undecided, succeeded)

    async def _undecided(self, families: Mapping[str, Sequence[str]], succeeded: Collection[str]) -> list[str]:
        """The children that may have to wait no longer, of parents that have ended.

        One whose parents have succeeded as far as they have ended waits as long as any single one hasn't. Looking at
        that one alone, as SAT solvers watch one literal of a clause, a child of n parents that end one by one takes
        n reads, and not n²: since it is drawn among those that are left, it is the next to end but a few times.
        """
        children = {child for family in families.values() for child in family}
        watched = {child: parent for child in children if (parent := self._awaited.get(child)) is not None}
        if not watched:
            return list(children)
        states = await self._states({*watched.values(), *families}, succeeded)
        failed = [parent for parent in families if states[parent] is not TaskState.SUCCESS]
        doomed = {child for parent in failed for child in families[parent]}
        waiting = {child for child, parent in watched.items() if not states[parent].is_terminal} - doomed
        return list(children - waiting)

    async def children_added(self, child_ids: Sequence[str]) -> None:
        """See to new tasks whose parents may have ended already."""
        await self.parents_ended(await self._resolve(child_ids))

    async def sweep(self) -> None:
        """See to all waiting tasks, whoever left them waiting."""
        cursor: str | None = None
        while True:
            where = TaskFilter(states=(TaskState.WAITING,))
            page = await self._stores.queue.find(where, limit=CHILDREN_AT_ONCE, cursor=cursor)
            await self.parents_ended(await self._resolve_records(page.tasks))
            cursor = page.cursor
            if cursor is None:
                return

    async def check_parents(self, tasks: Sequence[NewTask]) -> None:
        """Raise `UnknownParent` if one depends on a task that is neither among them nor in the store."""
        own = {task.id for task in tasks}
        others = list({parent for task in tasks for parent in task.depends_on} - own)
        store = self._stores.queue
        found = await look_up(store, partial(store.get, bodies=False), others)
        unknown = {id_ for id_, record in zip(others, found, strict=True) if record is None}
        orphan = next((task for task in tasks if not unknown.isdisjoint(task.depends_on)), None)
        if orphan is not None:
            raise unknown_parent(orphan, [parent for parent in orphan.depends_on if parent in unknown])

    async def _resolve(self, child_ids: Sequence[str], succeeded: Collection[str] = frozenset()) -> list[str]:
        """Release or end these tasks if their parents allow or forbid it; returns those it ended."""
        store = self._stores.queue
        records = await look_up(store, partial(store.get, bodies=False), dict.fromkeys(child_ids))
        return await self._resolve_records([record for record in records if record is not None], succeeded)

    async def _resolve_records(
        self, records: Sequence[TaskRecord], succeeded: Collection[str] = frozenset()
    ) -> list[str]:
        waiting = [record for record in records if record.state is TaskState.WAITING]
        # Nobody knows any more what they wait for.
        damaged = [record for record in waiting if record.damage is not None]
        broken = await self._stores.end_damaged(damaged, dead_letters=self._dead_letters)
        waiting = [record for record in waiting if record.damage is None]
        parents = await self._states({parent for child in waiting for parent in child.depends_on}, succeeded)
        self._watch(waiting, parents)
        policies = await self._policies([child for child in waiting if _any_failed(child, parents)])
        released = [child for child in waiting if _may_run(child, parents, policies)]
        store, releases = self._stores.queue, [_release(child) for child in released]
        await carry_out(store, store.transition, releases, id_of=attrgetter("task_id"))
        doomed = [child for child in waiting if policies.get(child.id) == "cancel"]
        ended = [*broken, *await self._stores.end(doomed, TaskState.CANCELLED, PARENT_FAILED)]
        self._tell(ended)
        return [each.record.id for each in ended]

    def _watch(self, children: Sequence[TaskRecord], parents: Mapping[str, TaskState]) -> None:
        """Note for each child a parent that it waits for."""
        if len(self._awaited) > MAX_WATCHED:
            self._awaited.clear()
        for child in children:
            self._awaited.pop(child.id, None)
            if left := [parent for parent in child.depends_on if not parents[parent].is_terminal]:
                # Tasks mostly end in order, and so the last one last; where they don't, chance keeps looks few.
                self._awaited[child.id] = left[-1] if random.random() < 0.5 else random.choice(left)

    async def _states(self, parent_ids: Collection[str], succeeded: Collection[str]) -> dict[str, TaskState]:
        """The states of parents, of which those that have `succeeded` stay so.

        A parent that is gone was purged, and only ended tasks are: it counts as a success, since a failure
        would have decided the child long before.
        """
        store, ids = self._stores.queue, [id_ for id_ in parent_ids if id_ not in succeeded]
        records = await look_up(store, partial(store.get, bodies=False), ids)
        known = dict.fromkeys(succeeded, TaskState.SUCCESS)
        return known | {
            id_: TaskState.SUCCESS if record is None else record.state for id_, record in zip(ids, records, strict=True)
        }

    async def _policies(self, children: Sequence[TaskRecord]) -> dict[str, str]:
        """What is to become of these tasks now that a parent of theirs has failed: their calls say it."""
        policies: dict[str, str] = {}
        for start in range(0, len(children), FEW):
            records = await self._stores.queue.get([child.id for child in children[start : start + FEW]])
            policies |= {record.id: self._policy(record) for record in records if record is not None}
        return policies

    def _policy(self, child: TaskRecord) -> str:
        """Its `on_parent_failure`; it waits for somebody who can read it where the key is missing here."""
        try:
            return verified_call(child, self._stores.serialization).on_parent_failure
        except KeyMissing:
            return "hold"
        except SerializationError as error:
            log.warning("task %s can't be read: %s", child.id, error)
            return UNREADABLE.on_parent_failure


def _any_failed(child: TaskRecord, parents: dict[str, TaskState]) -> bool:
    states = [parents[id_] for id_ in child.depends_on]
    return any(state.is_terminal and state is not TaskState.SUCCESS for state in states)


def _may_run(child: TaskRecord, parents: dict[str, TaskState], policies: dict[str, str]) -> bool:
    states = [parents[id_] for id_ in child.depends_on]
    return all(state.is_terminal for state in states) and policies.get(child.id, "run") == "run"


def _release(child: TaskRecord) -> Change:
    return Change(task_id=child.id, to=TaskState.PENDING, from_states=(TaskState.WAITING,), epoch=child.epoch)


def unknown_parent(task: NewTask, unknown: Sequence[str] = ()) -> UnknownParent:
    """The error for a task whose parents aren't all there; the `unknown` ones, if it is known which."""
    if unknown:
        return UnknownParent(f"depends_on: of task {task.id}: not known: {some(unknown)}")
    return UnknownParent(f"depends_on: of task {task.id}: {some(task.depends_on)}: not all are known")


def cycle(error: CycleError) -> DependencyCycle:
    """The error for tasks that depend on each other in a circle."""
    return DependencyCycle(f"depends_on: tasks depend on each other in a circle: {some(error.args[1], ' → ')}")


SHOWN: Final = 10


def some(ids: Sequence[str], separator: str = ", ") -> str:
    """Ids for a message: not thousands of them."""
    shown = separator.join(ids[:SHOWN])
    return shown if len(ids) <= SHOWN else f"{shown}{separator}and {len(ids) - SHOWN:,} more"


def parents_first(tasks: list[NewTask]) -> list[NewTask]:
    """The tasks in an order in which parents come before their children. Raises `DependencyCycle`."""
    if not any(task.depends_on for task in tasks):
        return tasks
    by_id = {task.id: task for task in tasks}
    sorter = TopologicalSorter({task.id: [p for p in task.depends_on if p in by_id] for task in tasks})
    try:
        return [by_id[id_] for id_ in sorter.static_order()]
    except CycleError as error:
        raise cycle(error) from None
