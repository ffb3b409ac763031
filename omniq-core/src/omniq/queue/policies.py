"""What becomes of tasks: retries, who waits for whom, when they expire, and for how long they are kept."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from graphlib import CycleError, TopologicalSorter
from operator import attrgetter
from typing import Final

from omniq.errors import DependencyCycle, InvalidTask, KeyMissing, SerializationError, UnknownParent
from omniq.models.config import DEAD_LETTER_RETENTION
from omniq.models.result import Outcome
from omniq.models.task import DEFAULT_RETRY, QUEUED, TERMINAL, Call, TaskState
from omniq.queue.request import UNREADABLE, log, verified_call
from omniq.queue.stores import FEW, Ended, Stores
from omniq.storage.base import carry_out, look_up
from omniq.storage.records import Change, NewTask, TaskFilter, TaskRecord

# ── retries ─────────────────────────────────────────────────────────────────


class RetryManager:
    """Exponential backoff with jitter.

    The delay before retry *n* is `retry_delay * factor ** (n - 1)`, at most `maximum` seconds, of which a share, the
    `jitter`, is drawn by lot, so that tasks which failed together don't come back together. A half of it is "equal
    jitter", all of it "full jitter" in Brooker, "Exponential Backoff and Jitter" (AWS, 2015).
    """

    def __init__(self, *, seed: int | None = None) -> None:
        """`seed` makes the draws repeatable. Raises `InvalidTask` if it is no integer."""
        if seed is not None and type(seed) is not int:
            raise InvalidTask(f"seed: expected an integer, got {seed!r:.80}")
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
            family_of = dict(zip(parent_ids, families, strict=True))
            children = await self._records(await self._undecided(family_of, succeeded))
            parent_ids = await self._resolve(await self._to_decide(children, family_of, succeeded), succeeded)

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

    async def _to_decide(
        self, children: Sequence[TaskRecord], families: Mapping[str, Sequence[str]], succeeded: Collection[str]
    ) -> list[TaskRecord]:
        """The children but for those with many parents, seen for the first time, whose last parent hasn't ended.

        Tasks mostly end in order, so that one look at that parent saves a look at all. One of whose parents any may
        have failed is looked at in any case.
        """
        may_fail = {child for parent, family in families.items() if parent not in succeeded for child in family}
        unseen = {
            child.id: child.depends_on[-1]
            for child in children
            if len(child.depends_on) > FEW and child.id not in may_fail and child.id not in self._awaited
        }
        states = await self._states(set(unseen.values()), succeeded)
        waiting = {child: last for child, last in unseen.items() if not states[last].is_terminal}
        self._awaited |= waiting
        return [child for child in children if child.id not in waiting]

    async def children_added(self, child_ids: Sequence[str]) -> None:
        """See to new tasks whose parents may have ended already."""
        await self.parents_ended(await self._resolve(await self._records(child_ids)))

    async def sweep(self) -> None:
        """See to all waiting tasks, whoever left them waiting."""
        cursor: str | None = None
        while True:
            where = TaskFilter(states=(TaskState.WAITING,))
            page = await self._stores.queue.find(where, limit=CHILDREN_AT_ONCE, cursor=cursor)
            await self.parents_ended(await self._resolve(page.tasks))
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

    async def _records(self, ids: Collection[str]) -> list[TaskRecord]:
        """Those that are waiting."""
        store = self._stores.queue
        records = await look_up(store, partial(store.get, bodies=False), dict.fromkeys(ids))
        return [record for record in records if record is not None and record.state is TaskState.WAITING]

    async def _resolve(self, records: Sequence[TaskRecord], succeeded: Collection[str] = frozenset()) -> list[str]:
        """Release or end waiting tasks if their parents allow or forbid it; returns those it ended."""
        # Nobody knows any more what they wait for.
        damaged = [record for record in records if record.damage is not None]
        broken = await self._stores.end_damaged(damaged, dead_letters=self._dead_letters)
        waiting = [record for record in records if record.damage is None]
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
    by_id = dict[str, list[NewTask]]()
    for task in tasks:
        by_id.setdefault(task.id, []).append(task)  # an id may come twice
    parents = {id_: [p for task in same for p in task.depends_on if p in by_id] for id_, same in by_id.items()}
    try:
        return [task for id_ in TopologicalSorter(parents).static_order() for task in by_id[id_]]
    except CycleError as error:
        raise cycle(error) from None


# ── TTL ─────────────────────────────────────────────────────────────────────


EXPIRED_AT_ONCE: Final = 500
PURGED_AT_ONCE: Final = 500
"""Tasks or results that one call deletes: a longer one keeps workers waiting where a store does one at a time."""
DEAD: Final = (TaskState.ERROR,)
FINISHED: Final = tuple(sorted(TERMINAL - {*DEAD}))


class TTLManager:
    """Expires tasks and purges finished ones and old results, in bounded batches."""

    def __init__(self, stores: Stores, dependencies: DependencyResolver) -> None:
        self._stores = stores
        self._dependencies = dependencies

    async def expire(self) -> list[TaskRecord]:
        """End the queued tasks whose TTL is over; returns those that this call ended."""
        ended: list[TaskRecord] = []
        cursor: str | None = None
        while True:
            page = await self._stores.queue.find(
                TaskFilter(expired=True, may_lag=True), limit=EXPIRED_AT_ONCE, cursor=cursor
            )
            # One that was claimed while the page was put together is its worker's to end, or to finish.
            queued = [record for record in page.tasks if record.state in QUEUED]
            ended += await self.expire_records([record for record in queued if record.damage is None])
            # To end them writes stand-ins, perhaps of the very TTL, by which they wouldn't have expired.
            await self._dependencies.end_damaged([record for record in queued if record.damage is not None])
            cursor = page.cursor
            if cursor is None:
                return ended

    async def expire_records(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """End these queued tasks if the store's clock says that their TTL is over; returns those it ended."""
        return await self._dependencies.end(records, TaskState.EXPIRED, Outcome(), if_expired=True)

    async def expire_unless_told(self, record: TaskRecord) -> None:
        """The same for one, by a program without a worker: it leaves a task that has an `on_failure` to a worker, which
        calls that."""
        (call,) = await self._stores.calls([record])
        if call.on_failure is None:
            await self.expire_records([record])

    async def purge(self, *, retention: float, dead_letter_retention: float | None = DEAD_LETTER_RETENTION) -> int:
        """Delete finished tasks and dead letters that ended so many seconds ago, and expired results; returns how many.

        None keeps dead letters for ever.
        """
        store, results = self._stores.queue, self._stores.results
        deleted = await _in_batches(partial(store.purge, older_than=retention, states=FINISHED))
        if dead_letter_retention is not None:
            deleted += await _in_batches(partial(store.purge, older_than=dead_letter_retention, states=DEAD))
        if results is not None:
            deleted += await _in_batches(results.purge)
        return deleted


async def _in_batches(purge: Callable[..., Awaitable[int]]) -> int:
    """Purge until nothing is left; each batch is followed by as much time for others as it took."""
    deleted = 0
    while True:
        began = time.monotonic()
        count = await purge(limit=PURGED_AT_ONCE)
        if count == 0:
            return deleted
        deleted += count
        await asyncio.sleep(time.monotonic() - began)
