"""A run of the system, as the outside history tells it: indexed, so that an invariant is a few lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct
from omniq.models.task import TaskState

from tests.reliability.history import Event, Kind

Slot = tuple[str, float]
"""A schedule's id and the time of one of its slots (seconds since the epoch)."""


class Final(Struct, frozen=True, kw_only=True):
    """How the store holds a task after the run."""

    state: TaskState
    epoch: int
    result_epoch: int | None = None
    result_value: str | None = None
    attempts: int = 0
    """Attempts that were charged."""
    crashes: int = 0
    slot: Slot | None = None
    """For a task that a schedule fired."""


class Expectations(Struct, frozen=True, kw_only=True):
    """What the run was set up to do. Durations are seconds."""

    lease: float
    reap_interval: float
    pickup: float = 1.0
    """How long a task that is back in the queue may wait for a free worker."""
    comeback: float = 5.0
    """How long after the server's return every worker must have taken up new work."""
    renewal: float = 0.0
    """How long after the server's return a lease may be that wasn't renewed yet."""
    slack: float = 0.1
    """How far the wall clock (leases) and the monotonic one (history) may drift apart within a lease."""
    start_wait: float = 0.5
    """How long before its start a task may have been claimed, where no claim was logged."""
    in_flight: int = 1
    """Tasks that one worker process may have started and not settled."""
    lost_leases: int = 0
    """Leases that the run makes living workers lose, by stopping them for longer than a lease."""
    max_attempts: int = 1
    max_crashes: int = 3
    dead: frozenset[str] = frozenset()
    """Tasks that must end in the dead-letter queue."""
    slots: frozenset[Slot] = frozenset()
    """Slots that must have been fired."""


class TaskLog:
    """One task's events, in the order of time."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.parents: tuple[str, ...] = ()
        self._events: list[Event] = []

    def append(self, event: Event) -> None:
        self._events.append(event)
        self.parents = self.parents or event.parents

    def of(self, *kinds: Kind, epoch: int | None = None) -> list[Event]:
        """The events of these kinds, if so wished only those of one epoch."""
        return [e for e in self._events if e.kind in kinds and epoch in (None, e.epoch)]

    @property
    def enqueued(self) -> bool:
        """Whether somebody tried to enqueue it."""
        return bool(self.of(Kind.ENQ_OK, Kind.ENQ_UNKNOWN))

    @property
    def starts(self) -> list[Event]:
        return self.of(Kind.START)

    @property
    def first_held(self) -> Event | None:
        """The first that is known of anybody's holding it."""
        return min(self.of(Kind.CLAIM, Kind.START), key=lambda e: e.time, default=None)

    @property
    def accepted(self) -> list[Event]:
        """Changes by a claim's holder that ended the task and were accepted."""
        return [e for e in self.of(Kind.SETTLED_OK) if TaskState(e.to).is_terminal]

    def next_start(self, epoch: int) -> Event | None:
        """The first start of the lowest epoch above this one."""
        return min((s for s in self.starts if s.epoch > epoch), key=lambda s: (s.epoch, s.time), default=None)


class Cut(Struct, frozen=True):
    """A start whose process was killed before it is known to have settled anything."""

    task: TaskLog
    start: Event
    killed_at: float
    next_start: Event | None

    @property
    def recovery(self) -> float | None:
        """Seconds from the kill to the next start.

        A start that is known to have failed may have been settled as a retry, whose delay is the task's own.
        """
        failed = self.task.of(Kind.FAILED, epoch=self.start.epoch)
        return None if self.next_start is None or failed else self.next_start.time - self.killed_at


class Outage(Struct, frozen=True):
    """The server was away."""

    down: float
    """When it was gone."""
    up: float
    """When it answered again; infinite if it never did."""


class Run:
    """A run's history by task, with what it led to and what was expected."""

    def __init__(self, history: Sequence[Event], final: Mapping[str, Final], expect: Expectations) -> None:
        self.final = final
        self.expect = expect
        self.tasks: dict[str, TaskLog] = {}
        self.spawned: dict[str, float] = {}
        """When which worker process was started, where that was logged."""
        self.gone: dict[str, Event] = {}
        """How and when worker processes were killed, or ended without being asked to."""
        self._presence: list[Event] = []
        """How worker processes began, paused and went, in the order of time."""
        self.outages: list[Outage] = []
        self.ended_at = max((event.time for event in history), default=0.0)
        for event in sorted(history, key=lambda e: e.time):
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.kind is Kind.SPAWN:
            self.spawned[event.worker] = event.time
        elif event.kind in (Kind.READY, Kind.FREEZE, Kind.THAW):
            self._presence.append(event)
        elif event.kind in (Kind.KILL, Kind.EXIT):
            self.gone[event.worker] = event
            self._presence.append(event)
        elif event.kind is Kind.SERVER_DOWN:
            self.outages.append(Outage(event.time, math.inf))
        elif event.kind is Kind.SERVER_UP:
            self.outages[-1] = Outage(self.outages[-1].down, event.time)
        else:
            self.tasks.setdefault(event.id, TaskLog(event.id)).append(event)

    def ended(self) -> Iterator[tuple[TaskLog, Final]]:
        """The tasks that have a history and are in the store."""
        return ((task, self.final[id_]) for id_, task in self.tasks.items() if id_ in self.final)

    def cuts(self) -> list[Cut]:
        """The starts that the end of their worker process cut short."""
        return [
            Cut(task, start, self.gone[start.worker].time, task.next_start(start.epoch))
            for task in self.tasks.values()
            for start in task.starts
            if start.worker in self.gone and not task.of(Kind.SETTLED_OK, Kind.SETTLED_LOST, epoch=start.epoch)
        ]

    # ── leases ───────────────────────────────────────────────────────────────

    def claimed_at(self, task: TaskLog, epoch: int) -> float:
        """When the claim of a started epoch was asked for, at the earliest."""
        known = [event.time for event in task.of(Kind.CLAIM, epoch=epoch)]
        return known[0] if known else task.of(Kind.START, epoch=epoch)[0].time - self.expect.start_wait

    def held_from(self, task: TaskLog, epoch: int) -> float:
        """The last time from which a whole lease must have passed before the task could be handed on."""
        renewed = [event.time for event in task.of(Kind.BEAT, epoch=epoch)]
        known = [event.time for event in task.of(Kind.CLAIM, epoch=epoch)] + renewed
        return max(known) if known else self.claimed_at(task, epoch)

    # ── re-executions ────────────────────────────────────────────────────────

    def re_executions(self) -> list[tuple[Event, Event]]:
        """Starts that neither a failed attempt nor a hand-back before them accounts for, each after the one before."""
        return [
            (earlier, later)
            for task in self.tasks.values()
            for earlier, later in pairwise(task.starts)
            if later.epoch != earlier.epoch and not task.of(Kind.FAILED, Kind.SETTLED_OK, epoch=earlier.epoch)
        ]

    def unexplained(self) -> list[Event]:
        """Re-executions that aren't due to a kill or an outage, which repeat at most what a worker could hold."""
        repeated: Counter[tuple[str, float]] = Counter()
        unexplained: list[Event] = []
        for earlier, later in self.re_executions():
            cause = self._cause(earlier, later)
            if cause is None or repeated[cause] == self.expect.in_flight:
                unexplained.append(later)
            else:
                repeated[cause] += 1
        return unexplained

    def _cause(self, earlier: Event, later: Event) -> tuple[str, float] | None:
        """Whom it befell, and when, that the earlier start came to nothing; None if nothing is known to have."""
        killed_at = self.gone[earlier.worker].time if earlier.worker in self.gone else math.inf
        lease_end = self.held_from(self.tasks[earlier.id], earlier.epoch) + self.expect.lease
        if killed_at > lease_end:
            for outage in self.outages:
                if outage.down < lease_end < outage.up + self.expect.renewal:
                    return earlier.worker, outage.down
        return (earlier.worker, killed_at) if killed_at < later.time else None

    # ── when work goes on ────────────────────────────────────────────────────

    def at_work(self, moment: float) -> float:
        """The moment, or when the workers must be at work again if then they aren't.

        They aren't while the server is away or hardly back, nor where all of them are killed or stopped, until the
        first one has just begun or goes on.
        """
        away = [(outage.down, outage.up + self.expect.comeback) for outage in self.outages]
        deserted = [(since, until + self.expect.reap_interval) for since, until in self._without_workers()]
        for since, until in sorted(away + deserted):
            if since <= moment < until:
                moment = until
        return moment

    def _without_workers(self) -> Iterator[tuple[float, float]]:
        """From when to when no worker was there of those that had begun; never, where their beginning wasn't logged."""
        there: set[str] = set()
        begun: set[str] = set()
        for event, following in pairwise(self._presence):
            if event.kind is Kind.READY:
                begun.add(event.worker)
            if event.kind in (Kind.READY, Kind.THAW):
                there.add(event.worker)
            else:
                there.discard(event.worker)
            if begun and not there & begun:
                yield event.time, following.time
