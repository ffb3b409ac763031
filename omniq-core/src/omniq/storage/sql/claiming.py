"""Claiming and ending tasks on SQL: leases, and the changes that end a run."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Struct, field

from omniq.models.task import QUEUED, TERMINAL, TaskState
from omniq.storage.records import MAX_COUNT, MAX_LEASE, Change, ChangeStatus, LapsedLease, Lease, TaskRecord
from omniq.storage.rules import decide
from omniq.storage.sql import TASKS, Given, Steps, ask, call, do, get, kinds, texts

# ── leases ──────────────────────────────────────────────────────────────────


_HELD: Final = """
    select id, cast(epoch as integer), worker from omniq.task where state = 'running' and worker = :worker
"""
MANY_QUEUES = 16
"""From more than that, a claim picks those first that hold something."""
_WALK = """
    {state} (name) as (
        select min(queue_name) from omniq.task where state = '{state}'
        union all
        select (select min(queue_name) from omniq.task where state = '{state}' and queue_name > {state}.name)
        from {state} where {state}.name is not null)
"""
_HOLDING: Final = f"""
    with recursive {_WALK.format(state="pending")}, {_WALK.format(state="scheduled")}
    select name from pending where name is not null union select name from scheduled where name is not null
"""
_LEASE = "id, cast(epoch as integer) as epoch, coalesce(worker, '') as worker"
_LEASELESS = f"""
    select * from (
        select {_LEASE}, cast(0 as double precision) as lease_until from omniq.task
        where state = 'running' and {{condition}}
            and (cast(0 as double precision), id) > (cast(:at as double precision), {{{{text[after]}}}})
        order by id || '' limit :limit) as leaseless
"""
"""In an order that no index has: else one might be walked for it."""
LAPSED: Final = f"""
    select id, epoch, worker, lease_until from (
        {_LEASELESS.format(condition="lease_until is null")}
        union all {_LEASELESS.format(condition=f"lease_until > {{now}} + {MAX_LEASE}")}
        union all select * from (
            select {_LEASE}, lease_until from omniq.task
            where state = 'running' and lease_until <= {{now}}
                and (lease_until, id) > (cast(:at as double precision), {{text[after]}})
            order by lease_until, id limit :limit) as overdue) as lapsed
    order by lease_until, id limit :limit
"""
SEEN: Final = kinds("task_id text, epoch integer, worker text, lease_until time")
UNRENEWED: Final = f"""
    with {{given}}
    select id from omniq.task as task
    where id {{any[ids]}} and state || '' = 'running' and exists (
        select 1 from given
        where given.task_id = task.id and given.epoch = cast(task.epoch as integer)
            and given.worker = coalesce(task.worker, '')
            and ((task.lease_until <= given.lease_until and task.lease_until <= {{now}})
                or task.lease_until is null or task.lease_until > {{now}} + {MAX_LEASE}))
    order by id {{skip_locked}}
"""
"""The state is asked for so that no index of states is walked instead of the ids, with the dead of all that ran."""
_CRASHES = f"case when crashes between 0 and {MAX_COUNT} then crashes else {MAX_COUNT} end"
TAKE_BACK: Final = f"""
    update omniq.task set state = 'pending', lease_until = null, worker = null,
        crashes = {_CRASHES} + case when exists (
            select 1 from omniq.worker as seen where seen.name = task.worker and seen.last_seen > task.lease_until)
            then 0 else 1 end
    where id {{any[ids]}}
"""


def held(worker: str) -> Steps[list[Lease]]:
    """As `BaseTaskQueue.held`."""
    return [Lease(*row) for row in (yield from ask(("text", "integer", "text"), _HELD, worker=worker))]


def holding(queues: Sequence[str]) -> Steps[Sequence[str]]:
    """The queues among these that may have something to claim: a walk from one name to the next in the indexes."""
    if len(queues) <= MANY_QUEUES:
        return queues
    found = set((yield from texts(_HOLDING)))
    return [queue for queue in queues if queue in found]


def lapsed(*, limit: int, after: LapsedLease | None = None) -> Steps[list[LapsedLease]]:
    """As `BaseTaskQueue.lapsed`."""
    at, id_ = (-math.inf, "") if after is None else (after.lease_until, after.task_id)
    rows = yield from ask(("text", "integer", "text", "time"), LAPSED, at=at, after=id_, limit=limit)
    return [LapsedLease(*row) for row in rows]


def reap(leases: Sequence[LapsedLease], choose: Callable[..., list[str]] | None = None) -> Steps[list[TaskRecord]]:
    """As `BaseTaskQueue.reap`, in one transaction; `choose(connection, ids=…)` may leave some out."""
    ids = [lease.task_id for lease in leases]
    ids = yield from texts(UNRENEWED, Given.of(SEEN, leases), ids=ids)
    if choose is not None:
        ids = yield from call(partial(choose, ids=ids))
    if not ids:
        return []
    yield from do(TAKE_BACK, ids=ids)
    return [task for task in (yield from get(TASKS, ids, bodies=False)) if task is not None]


Place: TypeAlias = tuple[int, float, str]
"""A place in a queue: the negated priority, `run_at` and id."""
HEAD: Final[Place] = (-(1 << 15), -math.inf, "")


class ScanPositions:
    """Where the last claim from each queue ended, for times when the dead are many.

    A server that keeps several versions of a row keeps the index entries of claimed tasks for as long as any open
    transaction could still see them, and a claim that begins at the head of a queue steps over them all. While that is
    slow, claims begin where the last one ended, but for one every `PATIENCE` seconds that finds what has taken a place
    before.
    """

    SLOW = 0.01
    PATIENCE = 1.0

    def __init__(self) -> None:
        self._ends: dict[str, Place] = {}
        self._head_again_at = 0.0

    def start(self, queues: Sequence[str]) -> list[Place]:
        """Where a claim begins in each queue."""
        if time.monotonic() >= self._head_again_at:
            return [HEAD] * len(queues)
        return [self._ends.get(queue, HEAD) for queue in queues]

    def note(self, claimed: Sequence[TaskRecord], began: Sequence[Place], took: float) -> None:
        """A claim that began at these places took so many seconds until it had found its first task, or none."""
        if took > self.SLOW and all(place == HEAD for place in began):
            self._head_again_at = time.monotonic() + self.PATIENCE
        last = {task.queue_name: task for task in claimed}
        self._ends |= {queue: (-task.priority, task.run_at, task.id) for queue, task in last.items()}


# ── changes ─────────────────────────────────────────────────────────────────


CHANGED: Final = kinds(
    "id text, state text, run_at time, expires_at time, finished_at time, attempts integer, crashes integer, "
    "lease_until time, worker text, cancel_requested boolean, unique_key text"
)
SET_CHANGED: Final = ", ".join(f"{name} = given.{name}" for name, _ in CHANGED if name != "id")
"""SQL for what an update of `task` sets."""
_PARENTS = "select distinct parent from omniq.edge where parent {any[ids]}"


class Seen(NamedTuple):
    """Tasks as they were read, by their ids."""

    records: Mapping[str, TaskRecord]
    now: float
    versions: Mapping[str, Any] = {}
    """By which a store tells that nobody has written a task since, if others may."""


class Decided(NamedTuple):
    """Changes that are to be applied, and the tasks as they will be, in the order of their ids."""

    seen: Seen
    changes: list[Change]
    records: list[TaskRecord]


class Ending(NamedTuple):
    """What is alike for many tasks that end: all but who they are, and their results."""

    state: TaskState
    attempted: bool
    crashed: bool
    worker: str | None

    @classmethod
    def of(cls, change: Change) -> Ending | None:
        """That of a change which ends a running task, with a result that says the same; of others None."""
        result = change.result
        ends = change.from_states == (TaskState.RUNNING,) and change.epoch is not None and change.to in TERMINAL
        special = change.delay is not None or change.fresh or change.if_expired or change.request_cancel
        if special or not ends or (result and (result.status is not change.to or result.epoch != change.epoch)):
            return None
        return cls(change.to, change.attempted, change.crashed, change.worker)


End: TypeAlias = Callable[[Ending, Sequence[Change]], Steps[Collection[str]]]
Look: TypeAlias = Callable[[Sequence[str]], Steps[Seen]]
Write: TypeAlias = Callable[[Decided], Steps[Collection[str]]]


class Settled(Struct):
    """What came of a batch of changes."""

    statuses: dict[str, ChangeStatus] = field(default_factory=dict)
    """By the ids of the tasks."""
    due: dict[str, float] = field(default_factory=dict)
    """The queues to which tasks went back, and in how many seconds the first of those is due."""
    queued: int = 0
    """How many tasks that are."""
    ended: list[str] = field(default_factory=list)
    """The tasks that have got results."""
    parents: set[str] | None = None
    """Those of the tasks that have children, if that is known already."""

    def note(self, change: Change) -> None:
        """Take down that a change was applied."""
        self.statuses[change.task_id] = ChangeStatus.APPLIED
        if change.result is not None:
            self.ended.append(change.task_id)


def settle(changes: Sequence[Change], settled: Settled, *, end: End, look: Look, write: Write) -> Steps[Settled]:
    """End what can be ended at once; of the rest read, decide and write, until nobody has come in between.

    `end` ends those of the tasks that are still held under the changes' epochs, and stores their results; it returns
    their ids, or none if it isn't so simple. `look` reads those of the tasks that exist. `write` writes those that are
    as they were read, with the results of their changes; it returns their ids.
    """
    alike: defaultdict[Ending | None, list[Change]] = defaultdict(list)
    for change in sorted(changes, key=attrgetter("task_id")):  # who locks rows in one order locks nobody out
        alike[Ending.of(change)].append(change)
    for ending, ends in alike.items():
        ended = (yield from end(ending, ends)) if ending is not None else ()
        for change in ends:
            if change.task_id in ended:
                settled.note(change)
    left = [change for changes in alike.values() for change in changes if change.task_id not in settled.statuses]
    while left:
        left = yield from _settle_once(left, settled, look, write)
    return settled


def _settle_once(changes: Sequence[Change], settled: Settled, look: Look, write: Write) -> Steps[list[Change]]:
    """Read, decide and write once; returns the changes of tasks that somebody else has written in between."""
    decided = _decided(changes, (yield from look([change.task_id for change in changes])), settled)
    written = (yield from write(decided)) if decided.records else ()
    left = []
    for change, record in zip(decided.changes, decided.records, strict=True):
        if change.task_id not in written:
            left.append(change)
            continue
        settled.note(change)
        if record.state in QUEUED:
            settled.queued += 1
            seconds = record.run_at - decided.seen.now
            settled.due[record.queue_name] = min(seconds, settled.due.get(record.queue_name, seconds))
    return left


def _decided(changes: Sequence[Change], seen: Seen, settled: Settled) -> Decided:
    """What is to be written; what becomes of the other changes is told in `settled`."""
    decided = Decided(seen, [], [])
    for change in changes:
        status, record = decide(seen.records.get(change.task_id), change, seen.now)
        if record is None:
            settled.statuses[change.task_id] = status
        else:
            decided.changes.append(change)
            decided.records.append(record)
    return decided


def changed(records: Sequence[TaskRecord]) -> Given:
    """Tasks as rows for `SET_CHANGED`."""
    return Given.of(CHANGED, records, unique_key=[record.unique for record in records])


def with_children(ids: Sequence[str]) -> Steps[set[str]]:
    """Those of the tasks that have children.

    To be asked once an end is committed. Whoever adds a child commits that first and looks at its parents then: so
    one of the two sees the other.
    """
    return set((yield from texts(_PARENTS, ids=ids)))
