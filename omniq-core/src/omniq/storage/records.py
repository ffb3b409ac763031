"""What crosses the contract: bytes, times and durations; never a callable.

The records that are made by the thousand hold no containers that could form a cycle, and so stay out of the
garbage collector's sight (`gc=False`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from omniq.models.config import TEN_YEARS, Abridged
from omniq.models.event import EventType, TaskEvent
from omniq.models.task import TERMINAL, TaskState

MAX_COUNT: Final = 2**30
"""What no counter of a sound record exceeds: every store can still add to it."""
MAX_LEASE: Final = 2 * TEN_YEARS
"""Seconds from now for which no lease holds: a task that is said to run for longer is taken back."""
MAX_TIME: Final = float(2**40)
"""Seconds from the epoch, either way, within which the times of a sound record are."""

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Priority = Annotated[int, Meta(ge=-100, le=100)]
Time = Annotated[float, Meta(ge=-MAX_TIME, le=MAX_TIME)]
Version = Annotated[int, Meta(ge=0, le=2**60)]


class Past(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a task has behind it in another store, from which it is moved here."""

    state: TaskState
    """As which it is stored: WAITING, one in which it has ended, or PENDING, which is SCHEDULED until it is due."""
    created_at: float
    """Seconds since the epoch, as what follows."""
    finished_at: float | None = None
    """Given exactly for a task that has ended."""
    epoch: int = 0
    """Its next claim has the epoch after this."""
    attempts: int = 0
    crashes: int = 0


class NewTask(Abridged, Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A task to add. The store turns durations into times on its own clock."""

    id: str
    queue_name: str
    body: bytes
    name: str = ""
    """The function's name, for lists: printable, at most 255 characters. It isn't signed, and nothing is run by it."""
    priority: int = 0
    """-100 to 100; higher first."""
    run_at: float | None = None
    """Due at this time (seconds since the epoch); None means `delay` from now."""
    delay: float = 0.0
    """Due after so many seconds, where `run_at` is None."""
    ttl: float | None = None
    """Expires so many seconds after it is due."""
    depends_on: tuple[str, ...] = ()
    schedule_id: str | None = None
    unique: str | None = None
    """A key that only one task of the store has at a time, until it ends: 1 to 255 printable characters."""
    past: Past | None = None
    """Given for a task that is moved from another store: it isn't new there alone. Its `run_at` is given, too, and it
    has no `unique` key if it has ended."""


class TaskRecord(Abridged, Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A task as the store holds it. Times are seconds since the epoch on the store's clock.

    A store makes it of any row, whatever is in it: see `damage`.
    """

    id: str
    queue_name: str
    body: bytes = b""
    """Empty where bodies weren't asked for."""
    name: str = ""
    state: TaskState
    priority: Priority
    created_at: Time
    run_at: Time
    expires_at: Time | None = None
    finished_at: Time | None = None
    epoch: Count = 0
    attempts: Count = 0
    crashes: Count = 0
    lease_until: Time | None = None
    claimed_at: Time | None = None
    """When the current, or last, claim was made."""
    worker: str | None = None
    cancel_requested: bool = False
    depends_on: tuple[str, ...] = ()
    schedule_id: str | None = None
    unique: str | None = None
    """The key that the task holds; None from its end on, when another may have it."""
    damage: str | None = None
    """What is wrong with the stored row, in words that show nothing of its body; what can't be read is a stand-in."""


class AddStatus(StrEnum):
    """What became of one task of an `add`."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """A task of that id is there already, or one that holds its `unique` key; it wasn't touched."""
    UNKNOWN_PARENT = "unknown_parent"
    """One of `depends_on` isn't there; nothing was stored of this task."""


class Added(Struct, frozen=True, gc=False):
    """What became of one task of an `add`."""

    status: AddStatus
    holder: str | None = None
    """Of a DUPLICATE the id of the task that holds the `unique` key, where that is another than its own."""


NEW: Final = Added(AddStatus.NEW)
DUPLICATE: Final = Added(AddStatus.DUPLICATE)
UNKNOWN_PARENT: Final = Added(AddStatus.UNKNOWN_PARENT)


class Lease(Struct, frozen=True, gc=False):
    """A claim that a worker holds: the task's id, the epoch of the claim, and who made it.

    The epoch alone would do, were it not for a failover that loses writes: then an epoch repeats.
    """

    task_id: str
    epoch: int
    worker: str


class LapsedLease(Struct, frozen=True, gc=False):
    """A lease that has run out, as it was seen."""

    task_id: str
    epoch: int
    worker: str
    lease_until: float
    """When it ran out, in seconds since the epoch on the store's clock."""


class LeaseStatus(Struct, frozen=True, gc=False):
    """What `extend` found of one lease."""

    held: bool
    cancel_requested: bool = False


class ResultRecord(Abridged, Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a task ended, or how far it has come, as the store holds it."""

    task_id: str
    epoch: Count
    status: TaskState
    """A terminal state; or RUNNING for the progress of the claim with that epoch, which is of no schedule."""
    body: bytes
    ttl: float | None = None
    """Kept for so many seconds from `put`; None means without end."""
    schedule_id: str | None = None
    finished_at: Time = 0.0
    """Set by the store."""
    expires_at: Time | None = None
    """Set by the store."""
    damage: str | None = None
    """As in `TaskRecord`."""

    @property
    def is_final(self) -> bool:
        """Whether the task has ended by it."""
        return self.status in TERMINAL


class Change(Struct, frozen=True, kw_only=True, gc=False):
    """One compare-and-set on a task: if it is in `from_states` (and at `epoch`), it goes to `to`."""

    task_id: str
    to: TaskState
    """PENDING or a terminal state; not looked at with `request_cancel`."""
    from_states: tuple[TaskState, ...]
    """Name PENDING and SCHEDULED together: which of the two a task that has come due reads as is the store's choice."""
    epoch: int | None = None
    """The epoch that the task must have; None only where no claim is at stake."""
    worker: str | None = None
    """The worker that must hold, or must have held, the task; None: whoever it is."""
    delay: float | None = None
    """With `to=PENDING`: due after so many seconds from now (SCHEDULED until then); None keeps `run_at`."""
    attempted: bool = False
    """Charge an attempt."""
    crashed: bool = False
    """Charge a crash."""
    fresh: bool = False
    """Forget attempts, crashes, TTL and a cancel request, and be due now: a requeue."""
    if_expired: bool = False
    """Only if the task's `expires_at` has passed on the store's clock."""
    request_cancel: bool = False
    """Instead of a change of state: set the flag that `extend` hands to the worker."""
    result: ResultRecord | None = None
    """To be stored in the same atomic step (`ATOMIC_RESULTS`)."""


class ChangeStatus(StrEnum):
    """What became of one change."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """The task is already there, by the same epoch: the first reply was lost. Nothing was written."""
    REFUSED = "refused"
    """State, epoch or expiry didn't match: the lease has passed on, or somebody was faster."""
    MISSING = "missing"
    """There is no task of that id."""


class Changed(Struct, frozen=True, gc=False):
    """What became of one change, and whether the task has, or may have, children to be released now."""

    status: ChangeStatus
    has_children: bool = False


class NewBody(Abridged, Struct, frozen=True, kw_only=True, gc=False):
    """One compare-and-set on the body of a task or a result."""

    task_id: str
    old: bytes
    """The body that must be there."""
    body: bytes
    """What takes its place."""


class TaskFilter(Struct, frozen=True, kw_only=True):
    """Which tasks `find` returns; conditions that are set must all hold."""

    states: tuple[TaskState, ...] = ()
    queue_name: str | None = None
    name: str | None = None
    schedule_id: str | None = None
    expired: bool = False
    """Only tasks that aren't claimed or ended and whose `expires_at` has passed. Asked for at every reap
    interval: serve it from an index."""
    may_lag: bool = False
    """Whether what others did in the last seconds may be left out, where it costs a request to see it: it is asked
    again and again."""


class TaskPage(Struct, frozen=True):
    """A page of tasks in the order of their ids, or backwards; `cursor` is None at the end."""

    tasks: list[TaskRecord]
    cursor: str | None = None


class QueueStats(Struct, frozen=True, kw_only=True):
    """How many tasks of a queue are in which state."""

    name: str
    paused: bool = False
    counts: dict[TaskState, int]
    """A state that no task is in may be left out."""
    oldest_due: float | None = None
    """The `run_at` of the task that could have been claimed for the longest, in seconds since the epoch on the store's
    clock; None if none is due. A paused queue's counts too."""


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events `query` returns; conditions that are set must all hold."""

    task_id: str | None = None
    name: str | None = None
    schedule_id: str | None = None
    queue_name: str | None = None
    worker: str | None = None
    types: tuple[EventType, ...] = ()
    since: float | None = None
    """Not before this time, in seconds since the epoch."""
    until: float | None = None
    """Before this time."""


class EventPage(Struct, frozen=True):
    """A page of events in the order that was asked for; `cursor` is None at the end."""

    events: list[TaskEvent]
    cursor: str | None = None


class BreakerState(StrEnum):
    """What a store's circuit breaker does with calls."""

    CLOSED = "closed"
    """It lets them through, as long as the store works."""
    OPEN = "open"
    """It refuses them: the store has failed too often."""
    HALF_OPEN = "half-open"
    """One is on its way to see whether the store works again; the others are refused."""


class BreakerStatus(Struct, frozen=True, kw_only=True):
    """A store's circuit breaker, as it is in one process."""

    location: str
    """The store's."""
    state: BreakerState = BreakerState.CLOSED
    since: float = 0.0
    """When it was closed, or opened, last: seconds since the epoch, on that process's clock."""
    error: str | None = None
    """What the store said last, unless the breaker is closed; cut to 200 characters."""


class WorkerRecord(Struct, frozen=True, kw_only=True):
    """What a worker says of itself, from time to time as long as it lives."""

    name: str
    """Unique, and never used again."""
    host: str = ""
    kind: str = ""
    """How it runs tasks: "async", "thread", "process" or a plugin's word."""
    queues: tuple[str, ...] = ()
    slots: int = 0
    """Tasks that it runs at once, at most."""
    running: int = 0
    """Tasks that it holds."""
    abandoned: int = 0
    """Tasks that go on running there though they were given up: nothing can stop a thread."""
    lease: float = 30.0
    """Seconds for which its claims hold. It is seen more often than that."""
    breakers: tuple[BreakerStatus, ...] = ()
    """Those of the stores that it works with."""
    started_at: float = 0.0
    """Seconds since the epoch, on the worker's clock."""
    stacks: str = ""
    """What it runs, with each task's stack, for a lease after somebody has asked (`inspect`); empty otherwise."""
    stacks_at: float = 0.0
    """When it told so last: seconds since the epoch, on the worker's clock. It rises with each answer."""
    last_seen: float = 0.0
    """Seconds since the epoch; set by the store."""
    seen_every: float = 0.0
    """Seconds between two times that it is seen, if those may be more than a lease: where each write costs money, the
    store hears less of workers that idle. Set by the store."""

    def is_alive(self, now: float) -> bool:
        """Whether it was seen lately, by the time on its store's clock: within one and a half leases, at least 10 s."""
        return now - self.last_seen <= max(1.5 * max(self.lease, self.seen_every), 10.0)


class ScheduleRecord(Abridged, Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as the store holds it."""

    id: str
    queue_name: str
    body: bytes
    next_run: Time | None
    """The next slot; None when there is none left."""
    last_run: Time | None = None
    """The slot that was fired last."""
    paused: bool = False
    version: Version = 0
    """Rises with every write, and never repeats for one id: whoever adds a schedule begins at the clock's
    milliseconds, so that a schedule which was deleted and added again isn't taken for the old one."""
    damage: str | None = None
    """As in `TaskRecord`."""


class Firing(Struct, frozen=True, kw_only=True):
    """One compare-and-set on a schedule: if it is at that version, its slot's task is added and it moves on."""

    schedule_id: str
    if_version: int
    slot: float
    """The schedule's `last_run` from then on."""
    next_run: float | None
    """The slot after this one; None when there is none left."""
    task: NewTask
    """It has no parents and no unique key."""


# ── sizes ───────────────────────────────────────────────────────────────────


def task_bytes(task: NewTask) -> int:
    """The size of a task in a batch: its body and the ids of its parents."""
    return len(task.body) + sum(map(len, task.depends_on)) if task.depends_on else len(task.body)


def change_bytes(change: Change) -> int:
    """The size of a change in a batch: its result's."""
    return 0 if change.result is None else len(change.result.body)


def result_bytes(result: ResultRecord) -> int:
    """The size of a result in a batch."""
    return len(result.body)
