"""The contract of a task queue: tasks, their leases, schedules and the workers that were seen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from omniq import clock
from omniq.batching import parts
from omniq.errors import PayloadTooLarge, UnsupportedCapability
from omniq.storage.base import BaseResultStorage, Capability, Store
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    Firing,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewBody,
    NewTask,
    QueueStats,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)

# ── sizes ───────────────────────────────────────────────────────────────────


BESIDE_A_VALUE = 4096
"""Bytes that the body of a result may have beside the value: who ran the task, when, and signatures."""
ALWAYS_TAKEN = 512 * 1024
"""Bytes of a body that every store takes."""


def task_bytes(task: NewTask) -> int:
    """The size of a task in a batch: its body and the ids of its parents."""
    return len(task.body) + sum(map(len, task.depends_on)) if task.depends_on else len(task.body)


def change_bytes(change: Change) -> int:
    """The size of a change in a batch: its result's."""
    return 0 if change.result is None else len(change.result.body)


def result_bytes(result: ResultRecord) -> int:
    """The size of a result in a batch."""
    return len(result.body)


class SizeLimit(Struct, frozen=True, array_like=True):
    """How many bytes a body may have, and who says so. It crosses to child processes."""

    bytes: int
    source: str
    """What allows no more: "max_body", or a store's location."""

    @classmethod
    def of(cls, max_body: int, store: Store, *, beside: int = 0) -> SizeLimit:
        """That of payloads with which so many bytes are stored besides, in a connected store, under that `max_body`."""
        taken = cls(store.max_item_bytes - beside, store.location)
        return taken if taken.bytes < max_body else cls(max_body, "max_body")

    def check(self, size: int, what: str) -> None:
        """Raise `PayloadTooLarge` if that is too much; `what` has so many bytes."""
        if size > self.bytes:
            raise PayloadTooLarge(f"{what} has {size:,} bytes; {self.source} allows {self.bytes:,}")


# ── the queue ───────────────────────────────────────────────────────────────


class BaseTaskQueue(Store):
    """Tasks and schedules. All of a queue's writes are compare-and-set."""

    def result_storage(self) -> BaseResultStorage | None:
        """The result storage at this queue's own `location`, or None if the store keeps no results.

        It is where results go when nothing else was configured.
        """
        return None

    def _check_asked(self, tasks: Sequence[NewTask]) -> None:
        """Raise `UnsupportedCapability` if a task has a `unique` key or a priority: for stores that know none."""
        if Capability.UNIQUE not in self.capabilities and any(task.unique is not None for task in tasks):
            raise UnsupportedCapability(f"unique: {self.location} can't keep a task unique")
        if Capability.PRIORITY not in self.capabilities and any(task.priority for task in tasks):
            raise UnsupportedCapability(f"priority: {self.location} can't let one task go before others")

    @abstractmethod
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        """Store the tasks that aren't there yet, and their edges to their parents.

        Idempotent by id: a task that exists is DUPLICATE and stays as it is, whatever its state. A task with
        a parent that neither exists nor comes earlier in the same call is UNKNOWN_PARENT and not stored; nor is one
        whose `unique` key is held by a task that hasn't ended: it is DUPLICATE, and the answer names the holder. Of
        several that bring one key the first one gets it, in one call as in concurrent ones. `rules.judge` decides, in
        that order. Keys are for stores with `UNIQUE`, and priorities other than 0 for those with `PRIORITY`; another
        raises `UnsupportedCapability` for a task that has one, and adds none of the call.
        The state is WAITING with parents (whatever their state: releasing is the caller's part),
        else SCHEDULED if due later, else PENDING. When it returns, the tasks are as durable as the store
        promises.
        """

    async def add_within(self, connection: Any, tasks: Sequence[NewTask]) -> list[Added]:
        """As `add`, inside the transaction that the caller has open on this connection of the store's driver.

        The tasks exist only if, and from when, the caller commits. Only with `TRANSACTIONAL_ENQUEUE`, else
        `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"{self.location} can't enqueue within a transaction of the caller's")

    @abstractmethod
    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        """Hand out up to `limit` due tasks, each to one caller only, under a lease of `lease` seconds.

        Due are PENDING tasks, and SCHEDULED ones whose `run_at` has come. Order: the queues as listed
        (an earlier one is emptied first), then priority (higher first), then `run_at`. Paused queues are
        passed over. Each task becomes RUNNING, its epoch rises by one, and the record returned has the new
        epoch, `claimed_at` (the store's now), `lease_until` and `worker`. Expired tasks are handed out too:
        the caller compares `expires_at` with `claimed_at`. It may return fewer than are due, even none, where
        others were faster; and it stops before their bodies are more than `max_bytes` together, though one is
        handed out whatever its size.
        """

    @abstractmethod
    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        """Let each lease end `lease` seconds from now, if the task is still RUNNING at that epoch by that worker.

        A lease that has run out but wasn't reaped is still held. A task that somebody else has locked is waited for,
        or told to be held without being extended; it isn't lost. Tells whether a cancel was requested.
        """

    @abstractmethod
    async def held(self, worker: str) -> list[Lease]:
        """The leases that a worker holds: for one whose claim was carried out and not answered. Seldom asked for."""

    @abstractmethod
    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        """Up to `limit` leases of RUNNING tasks that have run out, in the order of (`lease_until`, task id).

        With `after`, those that come after it. A lease that never ends (there is none, or it is further away than any
        that was asked for) has run out, too, and `lease_until` is 0. Changes nothing.
        """

    @abstractmethod
    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        """Put the tasks that are still under these leases, unrenewed since they were seen, back to PENDING.

        A task is charged a crash unless its worker was seen (`beat`) after the lease ran out. `rules.is_unrenewed` and
        `rules.reaped` decide; deciding and writing are one atomic step per task that loses against a concurrent
        `extend` or `transition`. The epoch stays. Returns the tasks that were put back, as they are now,
        without their bodies.
        """

    @abstractmethod
    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        """Note that the worker is alive, and what it says of itself; with `leaving`, that it has stopped."""

    @abstractmethod
    async def workers(self) -> list[WorkerRecord]:
        """The workers that were seen and haven't left, by name, the dead ones among them until they are purged."""

    async def now(self) -> float:
        """The clock by which this store decides what is due, lapsed or expired, with `omniq.clock.offset()`, in
        seconds since the epoch. This default is the host's clock: override it where the server's decides.
        """
        return clock.now()

    @abstractmethod
    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        """Apply each change whose conditions hold: the one write by which tasks end, retry, go back or cancel.

        A change is decided by `omniq.storage.rules.decide`; deciding and writing are one atomic step per task.
        A task that ends gives its `unique` key up in that step.
        A change's `result` is stored in that same step (only with `ATOMIC_RESULTS`, else
        `UnsupportedCapability`), and not when the change isn't applied.
        """

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        """Replace the bodies of tasks that have the old one, whatever their state; returns whether each was replaced.

        Nothing else of a task changes. Comparing and writing are one atomic step per task. It is how tasks are signed
        with another key; a store without it raises `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"{self.location} can't replace the bodies of tasks")

    @abstractmethod
    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        """The tasks, or None for those that aren't there. Without `bodies`, those are empty, and aren't read."""

    @abstractmethod
    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        """A page of the tasks that match, in the order of their ids, or backwards if `newest_first`.

        `cursor` is that of the page before. Without `bodies`, those are empty, and aren't read. Serve every condition
        alone and `states` with each other one from an index, so that a page takes no longer the more tasks there are.
        """

    @abstractmethod
    async def stats(self) -> list[QueueStats]:
        """Every queue that holds tasks or is paused, by name. May lag by a few seconds where counting is dear."""

    @abstractmethod
    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        """For each task, the ids of the tasks that depend on it; some may not exist, after a crash in `add`."""

    @abstractmethod
    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete up to `limit` tasks that ended more than `older_than` seconds ago; returns how many.

        Also forgets the workers that weren't seen for so long.

        A task that a WAITING child depends on is kept; a child that is being added at the same time either
        keeps it or finds an UNKNOWN_PARENT.
        """

    @abstractmethod
    async def pause(self, queue_name: str, *, paused: bool) -> None:
        """Let `claim` pass over the queue, or no longer: soon, where reading it at every claim would be dear."""

    @abstractmethod
    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        """Write the schedule if its stored version is `if_version` (None: if there is none).

        The stored version becomes `if_version + 1`, or for a new schedule `schedule.version + 1`. Returns whether
        it was written.
        """

    @abstractmethod
    async def schedules(self, ids: Sequence[str] | None = None, *, within: float | None = None) -> list[ScheduleRecord]:
        """All schedules by id, or those of `ids` that exist.

        With `within`, only active ones whose slot has come, or comes within so many seconds.
        """

    @abstractmethod
    async def delete_schedule(self, schedule_id: str) -> bool:
        """Delete it; returns whether it was there."""

    @abstractmethod
    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        """Add each slot's task and move its schedule to `next_run`, if that is at version `if_version`.

        Returns whether this call did it; at a version that is known to be past, it adds nothing. The task's id
        is derived from the slot and added idempotently, so that a store which can't do both in one step may add
        first and move then.
        """

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        """Return when a task may have become due in one of the queues, or after `timeout` seconds.

        A hint only: early, late and needless returns are all allowed. This default hears what this process
        adds; override it where the store can push.
        """
        await self.wakeups.for_tasks(queues, timeout)


# ── what stores are promised of each call ───────────────────────────────────


T = TypeVar("T")
R = TypeVar("R")


async def look_up(store: Store, read: Callable[[Sequence[str]], Awaitable[Sequence[R]]], ids: Iterable[str]) -> list[R]:
    """What the store answers to each id, asked once for each that comes twice."""
    asked = list(ids)
    found: dict[str, R] = {}
    for part in parts(list(dict.fromkeys(asked)), limit=store.max_items):
        found.update(zip(part, await read(part), strict=True))
    return [found[id_] for id_ in asked]


async def carry_out(
    store: Store,
    write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
    items: Sequence[T],
    *,
    id_of: Callable[[T], str],
    size: Callable[[T], int] | None = None,
    max_bytes: int | None = None,
) -> list[R]:
    """What the store answers to each item, in order; items of one id go in different calls, one after the other.

    `max_bytes` is the store's, unless another is smaller.
    """
    answers: list[R] = []
    most = store.max_bytes if max_bytes is None else max_bytes
    for part in parts(items, size, limit=store.max_items, max_bytes=most, id_of=id_of):
        answers += await write(part)
    return answers
