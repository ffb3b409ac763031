"""A run of the system, as the outside history tells it: indexed, so that an invariant is a few lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec import Struct
from omniq.models.state import TaskState

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
        """Seconds from the kill to the next start."""
        return None if self.next_start is None else self.next_start.time - self.killed_at


class Run:
    """A run's history by task, with what it led to and what was expected."""

    def __init__(self, history: Sequence[Event], final: Mapping[str, Final], expect: Expectations) -> None:
        self.final = final
        self.expect = expect
        self.tasks: dict[str, TaskLog] = {}
        self.kills: dict[str, float] = {}
        """When which worker process was killed."""
        for event in sorted(history, key=lambda e: e.time):
            if event.kind is Kind.KILL:
                self.kills[event.worker] = event.time
            else:
                self.tasks.setdefault(event.id, TaskLog(event.id)).append(event)

    def ended(self) -> Iterator[tuple[TaskLog, Final]]:
        """The tasks that have a history and are in the store."""
        return ((task, self.final[id_]) for id_, task in self.tasks.items() if id_ in self.final)

    def cuts(self) -> list[Cut]:
        """The starts that a kill cut short."""
        return [
            Cut(task, start, self.kills[start.worker], task.next_start(start.epoch))
            for task in self.tasks.values()
            for start in task.starts
            if start.worker in self.kills and not task.of(Kind.SETTLED_OK, epoch=start.epoch)
        ]

    def re_executions(self) -> list[Event]:
        """Starts that neither a failed attempt nor a hand-back before them accounts for."""
        return [
            later
            for task in self.tasks.values()
            for earlier, later in pairwise(task.starts)
            if later.epoch != earlier.epoch and not task.of(Kind.FAILED, Kind.SETTLED_OK, epoch=earlier.epoch)
        ]

    def in_flight_at_kills(self) -> int:
        """How many starts the kills may have cut short, going by what the workers could hold at most."""
        cut: defaultdict[str, int] = defaultdict(int)
        for each in self.cuts():
            cut[each.start.worker] += 1
        return sum(min(count, self.expect.in_flight) for count in cut.values())
