"""Handing out tasks and taking them back from the dead: what of it is alike in all databases."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from omniq.storage.records import MAX_COUNT, MAX_LEASE, LapsedLease, Lease, TaskRecord
from omniq.storage.sql.steps import Given, Steps, ask, call, do, get, kinds, texts
from omniq.storage.sql.tables import TASKS

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


class Bookmarks:
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
