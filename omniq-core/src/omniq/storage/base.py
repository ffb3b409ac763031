"""The contract: what a backend implements.

Everything is batch-first, and everything crosses as bytes, times and durations. A method returns one
answer per item, in order. What a store can't do it says by `UnsupportedCapability`; what it can't reach
by `StoreUnavailable`, and by `StoreFull` if it has no room; what it refuses by `StoreError`, and by `ValueRefused` if
that is for the size or content of an item, which a worker takes for the end of its task; all else is tried again.
Never does it raise an error of its driver, nor one of the event loop's (`omniq.storage.transport`). Every method may
be called from any event loop; connections are per loop, and end with it (`omniq.loops.PerLoop`). A cancelled call
may have taken effect. A limit of 0 hands out, finds or deletes nothing.

Times are data: they are compared with the store's clock plus `omniq.clock.offset()`, so a store's own timers
(TTLs, delayed delivery) must not decide anything. A batch need not be atomic across its items, except where it
says so; after `StoreUnavailable` some may be done, and the caller repeats the whole call.

Sizes are bounded by the caller: no call brings more than `max_bytes` of bodies, unless it brings one item alone, and no
item more than `max_item_bytes`.

No row spoils the others. Whatever is in the store, a method answers for the rest; and a row that isn't what it
should be (a wrong type, a number out of bounds, text that isn't UTF-8, a state that there is none of) is a record with
stand-ins and with `damage`, by the functions of `omniq.storage.damage`. What reads shows it so, and writes nothing.
`claim` hands it out, and writes the stand-ins too, so that the caller can end it by `transition` like any other: it
dead-letters it. What can't be handed out, since nobody could name it, becomes ERROR in the claim, so that no queue is
blocked by it. `reap` takes back what is said to run without a lease, or with one that never ends.

Ids are printable text of 1 to 255 characters, queue names `omniq.models.config.NAME`; where ids are ordered,
it is by code point.

`omniq.testing.conformance` is the executable form of this page.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from omniq import clock
from omniq.batching import MAX_BYTES
from omniq.errors import UnsupportedCapability
from omniq.models.event import TaskEvent
from omniq.models.state import EventType
from omniq.storage.capabilities import Capability
from omniq.storage.guarantees import Guarantees
from omniq.storage.records import (
    Added,
    Change,
    Changed,
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
from omniq.storage.wakeups import DEAF_WAIT, Wakeups


class Store(ABC):
    """What queues, results and events have in common."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    max_bytes: ClassVar[int] = MAX_BYTES
    """Bytes of bodies that one call brings at most: what is more is split by the caller, and a larger item comes alone.
    A `claim` hands out no more than that either."""

    @property
    def max_item_bytes(self) -> int:
        """Bytes of the largest body that the store takes, at least 512 KiB. Known once it is connected.

        The caller sends nothing larger, but a store may raise `PayloadTooLarge` for a body whose size it knows better.
        """
        return 1_000_000_000

    networked: bool = True
    """Whether others than this machine's users may reach the data; False for a local file, or for memory."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the data lives, such as `sqlite:/var/app/omniq.db`: equal for two stores exactly when they share one
        place, in which one atomic step can write both. Holds no secret."""

    @property
    def wakeups(self) -> Wakeups:
        """Everybody in this process who waits for what is kept here: a store tells them of what it writes."""
        return Wakeups.at(self.location)

    @abstractmethod
    async def connect(self) -> None:
        """Open what the running loop needs and create or migrate the schema. Safe to repeat, and safe for
        many processes at once."""

    @abstractmethod
    async def guarantees(self) -> Guarantees:
        """What the store promises, asked of the live server where that can be asked."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what `connect` opened for the running loop. Safe to repeat."""


class BaseTaskQueue(Store):
    """Tasks and schedules. All of a queue's writes are compare-and-set."""

    add_batch: ClassVar[int] = 1000
    """How many tasks are best added in one call where there are many."""
    settle_batch: ClassVar[int] = 1000
    """How many changes a busy worker had best tell in one call: fewer where a long one delays the next claim."""

    def result_storage(self) -> BaseResultStorage | None:
        """The result storage at this queue's own `location`, or None if the store keeps no results.

        It is where results go when nothing else was configured.
        """
        return None

    @abstractmethod
    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        """Store the tasks that aren't there yet, and their edges to their parents.

        Idempotent by id: a task that exists is DUPLICATE and stays as it is, whatever its state. A task with
        a parent that neither exists nor comes earlier in the same call is UNKNOWN_PARENT and not stored; the
        others are. The state is WAITING with parents (whatever their state: releasing is the caller's part),
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
        Several changes of one task apply in order.
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
        self, where: TaskFilter, *, limit: int = 100, cursor: str | None = None, bodies: bool = False
    ) -> TaskPage:
        """A page of the tasks that match, in the order of their ids.

        Without `bodies`, those are empty, and aren't read.
        """

    @abstractmethod
    async def stats(self) -> list[QueueStats]:
        """Every queue that holds tasks or is paused, by name. May lag on stores where counting is dear."""

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
    async def fire(self, schedule_id: str, *, if_version: int, next_run: float | None, task: NewTask) -> bool:
        """Add this slot's task and move the schedule to `next_run`, if its version is `if_version`.

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


class BaseResultStorage(Store):
    """How tasks ended."""

    @abstractmethod
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        """Store each record unless the stored one has a higher epoch; returns whether it was stored.

        The store sets `finished_at` to now and `expires_at` to `ttl` seconds from now.
        """

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        """Replace the bodies of results that have the old one; returns whether each was replaced.

        Nothing else of a result changes, neither its times nor its place among those of its schedule. As for tasks, a
        store without it raises `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"{self.location} can't replace the bodies of results")

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        """The results, or None for those that aren't there or have expired."""

    @abstractmethod
    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        """The results of a schedule's tasks in the order of `finished_at`."""

    @abstractmethod
    async def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` expired results; returns how many."""

    async def hear(self, timeout: float) -> None:
        """Let `wakeups` be told of the results that other processes store.

        It returns when whoever waits had better look for all that he waits for: after `timeout` seconds at the latest.
        This default can't hear others, and returns within a second. Override it where the store can push.
        """
        await asyncio.sleep(min(timeout, DEAF_WAIT))


class BaseEventStorage(Store):
    """What happened, kept as plain columns or JSON."""

    @abstractmethod
    async def append(self, events: Sequence[TaskEvent]) -> None:
        """Store the events."""

    @abstractmethod
    async def query(
        self,
        *,
        task_id: str | None = None,
        schedule_id: str | None = None,
        types: Sequence[EventType] = (),
        since: float | None = None,
        limit: int = 100,
    ) -> list[TaskEvent]:
        """Matching events, oldest first; with more than `limit`, the newest `limit` of them."""

    @abstractmethod
    async def purge(self, *, before: float, limit: int = 1000) -> int:
        """Delete up to `limit` events from before that time (seconds since the epoch); returns how many."""
