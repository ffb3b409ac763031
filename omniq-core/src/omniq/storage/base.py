"""The contract: what every store promises, task queues, results, and events."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeVar

from msgspec import Struct

from omniq import clock
from omniq.batching import MAX_BYTES, parts
from omniq.errors import PayloadTooLarge, UnsupportedCapability
from omniq.models.event import TaskEvent
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    EventFilter,
    EventPage,
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
from omniq.storage.wakeups import DEAF_WAIT, Wakeups

# ── what a store can do ─────────────────────────────────────────────────────


class Capability(StrEnum):
    """A declared ability, which the conformance suite tests; it asserts that asking for another one raises
    `UnsupportedCapability`."""

    ATOMIC_RESULTS = "atomic-results"
    """`transition` writes the changes' results in the same atomic step, where both live in one `location`."""
    CROSS_PROCESS = "cross-process"
    """Several processes may share the store."""
    PERSISTENT = "persistent"
    """What is acknowledged survives the death of every process that uses the store."""
    PUSH = "push"
    """`wait` is woken by another process's `add` without polling."""
    PRIORITY = "priority"
    """Within a queue, a higher priority is claimed first."""
    UNIQUE = "unique"
    """`add` knows the `unique` keys of tasks."""
    TRANSACTIONAL_ENQUEUE = "transactional-enqueue"
    """`add` can join a transaction of the caller's."""


# ── what a store promises ───────────────────────────────────────────────────


class Guarantees(Struct, frozen=True, kw_only=True):
    """What holds for every task that `add` has acknowledged, and every result and change that was."""

    survives_process_kill: bool
    """They outlive the sudden death of any process, the server's included."""
    survives_power_loss: bool
    """They outlive a loss of power where they are kept."""
    survives_failover: bool
    """They are still there when a replica takes over."""
    clock: Literal["host", "server"]
    """Whose clock decides what is due, expired or lapsed."""
    push: bool
    """A waiting worker in another process is woken by an `add`, without polling."""
    atomic_results: bool
    """A result is stored in the very step that ends its task, when both live here."""
    fenced: bool = True
    """A worker whose lease has passed on can't finish, retry or release. Every store must."""
    evidence: tuple[str, ...] = ()
    """What the answer rests on, such as the server's own settings: "fsync=on"."""


# ── every store ─────────────────────────────────────────────────────────────


class Store(ABC):
    """What queues, results and events have in common."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    max_items: ClassVar[int] = 1000
    """How many items one call brings at most; what is more is split by the caller."""
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
        """Open what the running loop needs and create or migrate the schema, now: every other call does it by itself
        where it isn't done yet. Safe to repeat, and safe for many processes at once."""

    @abstractmethod
    async def guarantees(self) -> Guarantees:
        """What the store promises, asked of the live server where that can be asked."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what `connect` opened for the running loop, after the calls that are under way. Safe to repeat."""

    @abstractmethod
    async def drop(self) -> None:
        """Remove everything that this project keeps here, results and events of the place included: its own tables,
        keys, files and folders too. Other projects at the place are untouched. Safe to repeat, and without `connect`.

        A later `connect` starts afresh. Whoever else has the place open mustn't use it meanwhile.
        """


# ── results ─────────────────────────────────────────────────────────────────


class BaseResultStorage(Store):
    """How tasks ended, and how far those have come that tell."""

    @abstractmethod
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        """Store each record if the stored one gives way; returns whether it was stored.

        `rules.gives_way` decides: neither does a record of an older epoch replace a newer one, nor does one that is
        RUNNING replace a final one of its epoch. The store sets `finished_at` to now and `expires_at` to `ttl`
        seconds from now.
        """

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        """Replace the bodies of results that have the old one; returns whether each was replaced.

        Nothing else of it changes, neither its times nor its place in its schedule. As for tasks, a store without it
        raises `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"{self.location} can't replace the bodies of results")

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        """The results, or None for those that aren't there or have expired."""

    async def get_recent(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        """As `get`, but what was stored a moment ago may be missing: whoever waits will be told of it."""
        return await self.get(ids)

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


# ── events ──────────────────────────────────────────────────────────────────


class BaseEventStorage(Store):
    """What happened, kept as plain columns or JSON."""

    @abstractmethod
    async def append(self, events: Sequence[TaskEvent]) -> None:
        """Store the events. Idempotent by id: one that was stored already is there once, as it was."""

    @abstractmethod
    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        """A page of the events that match in the order of (time, id), `oldest_first` or newest first.

        `cursor` is that of the page before, or of any event (`TaskEvent.cursor`), there or not: the page begins with
        what comes after it in the order that is asked for. Serve `task_id`, `schedule_id`, `since`, `until` and
        `cursor` from indexes; the other conditions may be looked for among what these leave.
        """

    @abstractmethod
    async def purge(self, *, before: float, limit: int = 1000) -> int:
        """Delete up to `limit` events from before that time (seconds since the epoch); returns how many."""


# ── sizes ───────────────────────────────────────────────────────────────────


BESIDE_A_VALUE = 4096
"""Bytes that the body of a result may have beside the value: who ran the task, when, and signatures."""
ALWAYS_TAKEN = 512 * 1024
"""Bytes of a body that every store takes."""


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
            raise UnsupportedCapability(f"unique_key: {self.location} can't keep a task unique")
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
        else SCHEDULED if due later, else PENDING; of a task with a `past`, what that says, as `rules.new_record` has
        it. When it returns, the tasks are as durable as the store promises.
        """

    async def add_within(self, connection: Any, tasks: Sequence[NewTask]) -> list[Added]:
        """As `add`, inside the transaction that the caller has open on this connection of the store's driver.

        The tasks exist only if, and from when, the caller commits. Only with `TRANSACTIONAL_ENQUEUE`, else
        `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"connection: {self.location} can't enqueue within a transaction of the caller's")

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
    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        """Note that the worker is alive, and what it says of itself; with `leaving`, that it has stopped.

        Returns whether somebody has asked it what it runs (`inspect`) since its last beat.
        """

    @abstractmethod
    async def inspect(self, worker: str) -> bool:
        """Let the worker's next `beat` tell it that somebody asks what it runs, once; returns whether there is one of
        that name. It answers with a further beat: see `WorkerRecord.stacks`.

        Soon, where reading it at every beat would be dear.
        """

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

        `cursor` is that of the page before; any other id is one, too: the page begins after it, whether there is such
        a task or not. Without `bodies`, those are empty, and aren't read. Serve every condition
        alone and `states` with each other one from an index, so that a page takes no longer the more tasks there are.
        """

    @abstractmethod
    async def stats(self) -> list[QueueStats]:
        """Every queue that holds tasks or is paused, by name. May lag by a few seconds where counting is dear."""

    @abstractmethod
    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        """For each task, the ids of the tasks that depend on it; some may not exist, after a crash in `add`."""

    @abstractmethod
    async def purge(self, *, older_than: float, states: Collection[TaskState] = TERMINAL, limit: int = 1000) -> int:
        """Delete up to `limit` tasks that ended in one of these states more than `older_than` seconds ago; returns how
        many.

        Also forgets the workers that weren't seen for so long, and what they were asked. Serve each state from an index
        by when tasks ended, so that those which are kept for longer are never stepped over.

        A task that a WAITING child depends on is kept; a child that is being added at the same time either
        keeps it or finds an UNKNOWN_PARENT.
        """

    @abstractmethod
    async def delete(self, ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> list[bool]:
        """Delete these tasks, with their edges, as far as they have ended in one of these states; returns whether each
        was deleted by this call.

        Kept are those that aren't there, that are in another state, and that a WAITING child depends on, as by `purge`.
        Deciding and deleting are one atomic step per task.
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
